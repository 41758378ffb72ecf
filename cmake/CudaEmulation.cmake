# The CUDA kernels compiled for the CPU by test/cuda/emulation, for machines without a GPU. Not shipped.
#
#   libjit_flux_cuda_emulation.so   a device library (native/runtime/device.h) whose device is the CPU
#   jit_flux_kernel_tests           the kernels against the CPU's, without LibTorch
#
# With JIT_FLUX_CUDA=ON there is also jit_flux_cuda_kernel_tests, the same tests and a benchmark on a GPU.
option(JIT_FLUX_CUDA_EMULATION "Build the CUDA kernels for the CPU and their tests (developers only)" OFF)

if(JIT_FLUX_CUDA_EMULATION)
  set(emulation_directory "${CMAKE_CURRENT_SOURCE_DIR}/test/cuda/emulation")
  # One C++ source per .cu, which it includes: the .cu files themselves may be CUDA sources of another target.
  file(GLOB kernel_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/cuda/*.cu")
  set(emulated_sources "")
  foreach(source IN LISTS kernel_sources)
    get_filename_component(name "${source}" NAME_WE)
    set(emulated "${CMAKE_BINARY_DIR}/emulated/${name}.cc")
    file(CONFIGURE OUTPUT "${emulated}" CONTENT "#include \"kernels/cuda/${name}.cu\"\n")
    list(APPEND emulated_sources "${emulated}")
  endforeach()
  add_library(jit_flux_emulated_kernels OBJECT ${emulated_sources} "${emulation_directory}/emulation.cc"
    "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/cuda/table.cc")
  target_include_directories(jit_flux_emulated_kernels PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}/native"
    "${emulation_directory}")
  target_compile_definitions(jit_flux_emulated_kernels PUBLIC JIT_FLUX_CUDA_EMULATION)
  target_link_libraries(jit_flux_emulated_kernels PUBLIC jit_flux_options)
  set(trap -fsanitize-undefined-trap-on-error)
  if(JIT_FLUX_SANITIZE MATCHES "undefined")
    set(trap "")  # the sanitizer's own messages; ThreadSanitizer's runtime has none
  endif()
  target_compile_options(jit_flux_emulated_kernels PRIVATE
    # As on the device: vectors over other types, fused multiply-add only where the source says so.
    -fno-strict-aliasing -ffp-contract=off -fno-math-errno -Wno-unknown-pragmas
    # A misaligned vector or an index beyond a static array stops the process, as on the device.
    -fsanitize=alignment,bounds ${trap})

  add_library(jit_flux_cuda_emulation SHARED "${emulation_directory}/backend.cc")
  target_compile_definitions(jit_flux_cuda_emulation PRIVATE ${build_identity})
  target_link_libraries(jit_flux_cuda_emulation PRIVATE jit_flux_emulated_kernels jit_flux_libtorch)
endif()

# The kernels' tests with the given kernels, and with the CPU's to compare with.
function(jit_flux_add_kernel_tests target kernels)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/test/cuda/*.cc")
  add_executable(${target} ${sources} "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/dispatch.cc")
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}/native")
  target_link_libraries(${target} PRIVATE jit_flux_options ${kernels})
  # References are computed as written.
  target_compile_options(${target} PRIVATE -ffp-contract=off)
  foreach(isa IN LISTS JIT_FLUX_ISA_LEVELS)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:jit_flux_kernels_${isa}>)
  endforeach()
endfunction()

if(JIT_FLUX_CUDA_EMULATION)
  jit_flux_add_kernel_tests(jit_flux_kernel_tests jit_flux_emulated_kernels)
endif()
