# Node-API headers as targets:
#   jit_flux_node_api         node_api.h, NAPI_VERSION of package.json (for C)
#   jit_flux_node_addon_api   napi.h with C++ exceptions (for C++)
# cmake-js passes the include directories in CMAKE_JS_INC; without it they are looked up in node_modules. The Node-API
# functions themselves are left undefined: the node executable exports them.

# The package's version and the Node-API version are stated once, in package.json.
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/package.json" jit_flux_package_json)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/package.json")
string(JSON JIT_FLUX_PACKAGE_VERSION GET "${jit_flux_package_json}" version)
string(JSON JIT_FLUX_NAPI_VERSION GET "${jit_flux_package_json}" binary napi_versions 0)

set(node_api_includes ${CMAKE_JS_INC})
if(NOT node_api_includes)
  find_program(JIT_FLUX_NODE node REQUIRED)
  execute_process(
    COMMAND "${JIT_FLUX_NODE}" -p
      "[require(require.resolve('node-api-headers', {paths: [require.resolve('cmake-js')]})).include_dir, require('node-addon-api').include_dir].map(d => require('path').resolve(d)).join(';')"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    OUTPUT_VARIABLE node_api_includes
    OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE node_api_result)
  if(NOT node_api_result EQUAL 0)
    message(FATAL_ERROR "node-api-headers and node-addon-api were not found: run `npm ci` first")
  endif()
endif()

add_library(jit_flux_node_api INTERFACE)
target_include_directories(jit_flux_node_api SYSTEM INTERFACE ${node_api_includes})
target_compile_definitions(jit_flux_node_api INTERFACE
  NAPI_VERSION=${JIT_FLUX_NAPI_VERSION}
  # Electron refuses buffers whose memory is not V8's: results are copied, and this keeps it so.
  NODE_API_NO_EXTERNAL_BUFFERS_ALLOWED)

add_library(jit_flux_node_addon_api INTERFACE)
target_link_libraries(jit_flux_node_addon_api INTERFACE jit_flux_node_api)
target_compile_definitions(jit_flux_node_addon_api INTERFACE
  NODE_ADDON_API_CPP_EXCEPTIONS
  # In a worker thread that is being terminated no error can be made: that must not end the process.
  NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
  NODE_ADDON_API_DISABLE_DEPRECATED
  NODE_ADDON_API_REQUIRE_BASIC_FINALIZERS)
