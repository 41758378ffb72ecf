# LibTorch as the target jit_flux_libtorch, from the directory JIT_FLUX_LIBTORCH (lib/, include/, version.py or
# build-version). scripts/build-native.mjs passes it, found or provisioned by src/libtorch/libtorch.ts. Without it the
# same places are tried here, short of provisioning and of an installed Python torch:
#   -DJIT_FLUX_LIBTORCH=<dir>, $JIT_FLUX_LIBTORCH, $LIBTORCH, the cache filled by `npx jit-flux setup`.
# With JIT_FLUX_CUDA only a LibTorch with CUDA counts, and the cache is that of `npx jit-flux setup --variant cu130`.
#
# The libraries are imported directly rather than through find_package(Torch): its config pulls in Caffe2's probing of
# MKL, Kineto and CUDA, and adds link flags we do not want; ATen needs three libraries and two include directories.

set(JIT_FLUX_LIBTORCH "" CACHE PATH "LibTorch directory (with lib/ and include/)")

file(READ "${CMAKE_CURRENT_SOURCE_DIR}/libtorch.json" jit_flux_libtorch_json)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/libtorch.json")
set(jit_flux_variant cpu)
set(jit_flux_required_libraries lib/libc10.so lib/libtorch_cpu.so lib/libtorch.so)
if(JIT_FLUX_CUDA)
  set(jit_flux_variant cu130)
  list(APPEND jit_flux_required_libraries lib/libc10_cuda.so lib/libtorch_cuda.so)
endif()
string(JSON jit_flux_libtorch_pinned GET "${jit_flux_libtorch_json}" variants ${jit_flux_variant} version)
# Where in the variant's folder LibTorch lies; not stated (an error) for one that is the folder itself.
string(JSON jit_flux_libtorch_subdirectory ERROR_VARIABLE jit_flux_json_error
  GET "${jit_flux_libtorch_json}" variants ${jit_flux_variant} directory)
if(jit_flux_json_error)
  set(jit_flux_libtorch_subdirectory "")
else()
  string(PREPEND jit_flux_libtorch_subdirectory "/")
endif()
string(JSON jit_flux_libtorch_oldest GET "${jit_flux_libtorch_json}" supported minimum)
string(JSON jit_flux_libtorch_newest GET "${jit_flux_libtorch_json}" supported maximum)

if(NOT JIT_FLUX_LIBTORCH)
  if(DEFINED ENV{JIT_FLUX_CACHE})
    set(jit_flux_cache "$ENV{JIT_FLUX_CACHE}")
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(jit_flux_cache "$ENV{XDG_CACHE_HOME}/jit-flux")
  else()
    set(jit_flux_cache "$ENV{HOME}/.cache/jit-flux")
  endif()
  set(jit_flux_tried "")
  foreach(candidate "$ENV{JIT_FLUX_LIBTORCH}" "$ENV{LIBTORCH}"
      "${jit_flux_cache}/libtorch/${jit_flux_libtorch_pinned}-${jit_flux_variant}${jit_flux_libtorch_subdirectory}")
    if(candidate STREQUAL "")
      continue()
    endif()
    set(jit_flux_complete TRUE)
    foreach(required ${jit_flux_required_libraries} include/ATen/ATen.h)
      if(NOT EXISTS "${candidate}/${required}")
        set(jit_flux_complete FALSE)
      endif()
    endforeach()
    if(jit_flux_complete)
      set(JIT_FLUX_LIBTORCH "${candidate}")
      break()
    endif()
    string(APPEND jit_flux_tried "\n  ${candidate}")
  endforeach()
  if(NOT JIT_FLUX_LIBTORCH)
    message(FATAL_ERROR "No LibTorch ${jit_flux_libtorch_pinned} found. Tried:${jit_flux_tried}\n"
      "Run `npx jit-flux setup --variant ${jit_flux_variant}`, or pass -DJIT_FLUX_LIBTORCH=<dir>.")
  endif()
endif()

foreach(required ${jit_flux_required_libraries} include/ATen/ATen.h)
  if(NOT EXISTS "${JIT_FLUX_LIBTORCH}/${required}")
    set(jit_flux_kind "LibTorch directory")
    if(JIT_FLUX_CUDA)
      string(APPEND jit_flux_kind " with CUDA")
    endif()
    message(FATAL_ERROR "JIT_FLUX_LIBTORCH=${JIT_FLUX_LIBTORCH} is not a ${jit_flux_kind}: ${required} is missing")
  endif()
endforeach()

# The C++ ABI is stable within a minor version only, so the version is compiled into the core and checked at run time.
if(EXISTS "${JIT_FLUX_LIBTORCH}/version.py")
  file(STRINGS "${JIT_FLUX_LIBTORCH}/version.py" jit_flux_version_line REGEX "^__version__ *=" LIMIT_COUNT 1)
elseif(EXISTS "${JIT_FLUX_LIBTORCH}/build-version")
  file(STRINGS "${JIT_FLUX_LIBTORCH}/build-version" jit_flux_version_line LIMIT_COUNT 1)
endif()
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+[A-Za-z0-9.+]*" JIT_FLUX_LIBTORCH_VERSION "${jit_flux_version_line}")
string(REGEX MATCH "^[0-9]+\\.[0-9]+" jit_flux_libtorch_minor "${JIT_FLUX_LIBTORCH_VERSION}")
if(NOT JIT_FLUX_LIBTORCH_VERSION)
  message(FATAL_ERROR "No LibTorch version in ${JIT_FLUX_LIBTORCH}/version.py or build-version")
endif()
if(jit_flux_libtorch_minor VERSION_LESS jit_flux_libtorch_oldest
   OR jit_flux_libtorch_minor VERSION_GREATER jit_flux_libtorch_newest)
  message(FATAL_ERROR "LibTorch ${JIT_FLUX_LIBTORCH_VERSION} in ${JIT_FLUX_LIBTORCH} is outside the supported range "
    "${jit_flux_libtorch_oldest} - ${jit_flux_libtorch_newest}")
endif()
message(STATUS "LibTorch ${JIT_FLUX_LIBTORCH_VERSION}: ${JIT_FLUX_LIBTORCH}")

add_library(jit_flux_libtorch INTERFACE)
target_include_directories(jit_flux_libtorch SYSTEM INTERFACE
  "${JIT_FLUX_LIBTORCH}/include"
  "${JIT_FLUX_LIBTORCH}/include/torch/csrc/api/include")
target_link_libraries(jit_flux_libtorch INTERFACE
  # libtorch.so holds nothing that the core calls; it is loaded beside the others, in the order of libtorch.ts.
  "${JIT_FLUX_LIBTORCH}/lib/libtorch.so" "${JIT_FLUX_LIBTORCH}/lib/libtorch_cpu.so" "${JIT_FLUX_LIBTORCH}/lib/libc10.so")
target_link_options(jit_flux_libtorch INTERFACE "-Wl,-rpath-link,${JIT_FLUX_LIBTORCH}/lib")
