# cmake -DNM=<nm> -DLIBRARY=<file> -P CheckUndefined.cmake
# Fails if a library refers to functions of ours that it does not hold. The linker cannot tell (-z defs), because the
# Node-API functions are undefined on purpose; without this the mistake would only show when the library is loaded.
execute_process(COMMAND "${NM}" -D -C --undefined-only "${LIBRARY}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]*(jitflux|jit_flux)[^\n]*" ours "${symbols}")
if(ours)
  list(JOIN ours "\n" ours)
  message(FATAL_ERROR "Declared and used but not defined:\n${ours}")
endif()
