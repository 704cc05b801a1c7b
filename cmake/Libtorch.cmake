# libtorch::libtorch: libc10 and libtorch_cpu, and nothing else. CUDA kernels are registered at run
# time (docs/architecture.md), so no CUDA toolkit is needed here, and find_package(Torch), which wants
# one, is not used. Looked for in this order:
#   -DSTEADYFLUX_LIBTORCH=DIR    a folder with include/ and lib/
#   CMAKE_PREFIX_PATH            a libtorch of your own (same layout)
#   .venv/                       the torch wheel that scripts/setup.sh installs
set(STEADYFLUX_LIBTORCH "" CACHE PATH "libtorch: a folder with include/ and lib/")

set(_candidates ${STEADYFLUX_LIBTORCH})
if(NOT STEADYFLUX_LIBTORCH)
  string(REPLACE ":" ";" _prefixes "$ENV{CMAKE_PREFIX_PATH}")
  foreach(_prefix ${CMAKE_PREFIX_PATH} ${_prefixes})
    list(APPEND _candidates ${_prefix} ${_prefix}/torch ${_prefix}/../..)
  endforeach()
  file(GLOB _venvs ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  list(APPEND _candidates ${_venvs})
endif()
unset(_torch_root)
foreach(_dir ${_candidates})
  if(EXISTS ${_dir}/include/ATen/ATen.h AND EXISTS ${_dir}/lib/libtorch_cpu.so)
    get_filename_component(_torch_root ${_dir} REALPATH)
    break()
  endif()
endforeach()
if(NOT _torch_root)
  message(FATAL_ERROR "libtorch not found. Run scripts/setup.sh, which puts the pinned torch wheel "
                      "into .venv, or give -DCMAKE_PREFIX_PATH=<libtorch folder>.")
endif()
message(STATUS "libtorch: ${_torch_root}")
set(STEADYFLUX_TORCH_ROOT ${_torch_root})

add_library(libtorch::c10 SHARED IMPORTED)
set_target_properties(libtorch::c10 PROPERTIES IMPORTED_LOCATION ${_torch_root}/lib/libc10.so)
add_library(libtorch::torch_cpu SHARED IMPORTED)
set_target_properties(libtorch::torch_cpu PROPERTIES IMPORTED_LOCATION
                                                     ${_torch_root}/lib/libtorch_cpu.so)
add_library(libtorch::libtorch INTERFACE IMPORTED)
# The wheel carries headers of its own fmt, which would shadow the system's, whose library we link.
# So the include folder is a view of libtorch's without that one.
set(_torch_include ${CMAKE_BINARY_DIR}/libtorch-include)
file(REMOVE_RECURSE ${_torch_include})
file(MAKE_DIRECTORY ${_torch_include})
file(GLOB _headers ${_torch_root}/include/*)
foreach(_entry ${_headers})
  get_filename_component(_name ${_entry} NAME)
  if(NOT _name STREQUAL "fmt")
    file(CREATE_LINK ${_entry} ${_torch_include}/${_name} SYMBOLIC)
  endif()
endforeach()
target_include_directories(libtorch::libtorch SYSTEM INTERFACE ${_torch_include})
target_link_libraries(libtorch::libtorch INTERFACE libtorch::torch_cpu libtorch::c10)
# at::parallel_for is a template: compiled without OpenMP it is a plain loop. Its threads have to be
# libtorch's own, so the library is the one that libtorch_cpu has loaded: GNU's, under the name that
# the system's has too. Clang's code wants another one, whose threads would be others.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_compile_options(libtorch::libtorch INTERFACE ${OpenMP_CXX_FLAGS})
  file(GLOB _openmp ${_torch_root}/lib/libgomp*.so*)
  if(NOT _openmp)
    set(_openmp ${OpenMP_CXX_LIBRARIES})
  endif()
  target_link_libraries(libtorch::libtorch INTERFACE ${_openmp})
else()
  message(WARNING "Without g++ attention and what lies between products have one thread on the CPU.")
endif()

# What libtorch_cpu itself links lies in the wheel's nvidia packages; the linker wants to see it.
get_filename_component(_site ${_torch_root} DIRECTORY)
file(GLOB STEADYFLUX_TORCH_RPATHS ${_site}/nvidia/*/lib)
list(INSERT STEADYFLUX_TORCH_RPATHS 0 ${_torch_root}/lib)
foreach(_dir ${STEADYFLUX_TORCH_RPATHS})
  target_link_options(libtorch::libtorch INTERFACE "LINKER:-rpath-link,${_dir}")
endforeach()
set(CMAKE_BUILD_RPATH ${STEADYFLUX_TORCH_RPATHS})
