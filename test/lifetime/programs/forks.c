// An addon as others write them: it forks and does not exec, and it calls exit() where it likes.
#include <node_api.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// () -> how the child ended that called exit(9): its exit status, or minus the signal; -1000 after 20 seconds
static napi_value fork_and_exit(napi_env env, napi_callback_info info) {
  (void)info;
  pid_t child = fork();
  if (child == 0) exit(9);
  int status = 0;
  int result = -1000;
  for (int i = 0; i < 2000; i++) {
    if (waitpid(child, &status, WNOHANG) == child) {
      result = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      break;
    }
    usleep(10000);
  }
  if (result == -1000) kill(child, SIGKILL);
  napi_value value = NULL;
  napi_create_int32(env, result, &value);
  return value;
}

// (status): exit() on the thread of the caller
static napi_value exit_here(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument = NULL;
  int status = 0;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_value_int32(env, argument, &status);
  exit(status);
}

NAPI_MODULE_INIT() {
  napi_value function = NULL;
  napi_create_function(env, "forkAndExit", NAPI_AUTO_LENGTH, fork_and_exit, NULL, &function);
  napi_set_named_property(env, exports, "forkAndExit", function);
  napi_create_function(env, "exitHere", NAPI_AUTO_LENGTH, exit_here, NULL, &function);
  napi_set_named_property(env, exports, "exitHere", function);
  return exports;
}
