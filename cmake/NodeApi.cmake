# Node-API headers as targets:
#   jit_flux_node_api         node_api.h, NAPI_VERSION of package.json (for C)
#   jit_flux_node_addon_api   napi.h with C++ exceptions (for C++)
# cmake-js, which drives the build, passes the include directories in CMAKE_JS_INC. The Node-API functions themselves are
# left undefined: the node executable exports them.

# The package's version and the Node-API version are stated once, in package.json.
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/package.json" jit_flux_package_json)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/package.json")
string(JSON JIT_FLUX_PACKAGE_VERSION GET "${jit_flux_package_json}" version)
string(JSON JIT_FLUX_NAPI_VERSION GET "${jit_flux_package_json}" binary napi_versions 0)

if(NOT CMAKE_JS_INC)
  message(FATAL_ERROR "CMAKE_JS_INC is not set: cmake-js drives this build. Run `npm run build:native`, or "
    "`npx cmake-js configure -G Ninja -O <build directory>`, which prints its command with --log-level verbose")
endif()

add_library(jit_flux_node_api INTERFACE)
target_include_directories(jit_flux_node_api SYSTEM INTERFACE ${CMAKE_JS_INC})
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
