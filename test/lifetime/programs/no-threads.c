// LD_PRELOAD: pthread_create fails as at a limit on processes while the environment variable NO_THREADS says so.
// "all": for everybody; "gomp": for libgomp, which then calls exit() on the thread that asked.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef int (*create_function)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

static int refused(const void* caller) {
  const char* whom = getenv("NO_THREADS");
  if (whom == NULL || *whom == '\0') return 0;
  Dl_info library;
  return strcmp(whom, "all") == 0 ||
         (dladdr(caller, &library) != 0 && strstr(library.dli_fname, whom) != NULL);
}

__attribute__((visibility("default"))) int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                                          void* (*start)(void*), void* argument) {
  if (refused(__builtin_return_address(0))) return EAGAIN;
  create_function create = NULL;
  void* symbol = dlsym(RTLD_NEXT, "pthread_create");
  memcpy(&create, &symbol, sizeof create);
  return create(thread, attributes, start, argument);
}
