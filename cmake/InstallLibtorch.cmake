# Runs at install time: copies libtorch (torch_root) into lib/steadyflux.
get_filename_component(site "${torch_root}" DIRECTORY)
set(destination "${CMAKE_INSTALL_PREFIX}/lib/steadyflux")

# What libtorch_cpu needs out of torch/lib and nvidia/*/lib; all else belongs to the system.
file(GLOB nvidia_dirs "${site}/nvidia/*/lib")
file(
  GET_RUNTIME_DEPENDENCIES
  LIBRARIES "${torch_root}/lib/libtorch_cpu.so"
  DIRECTORIES "${torch_root}/lib" ${nvidia_dirs}
  RESOLVED_DEPENDENCIES_VAR needed
  UNRESOLVED_DEPENDENCIES_VAR missing
  CONFLICTING_DEPENDENCIES_PREFIX conflicts)
foreach(name ${conflicts_FILENAMES}) # the wheel's own libgomp, and the compiler's
  list(APPEND needed ${conflicts_${name}})
endforeach()
if(missing)
  message(FATAL_ERROR "libtorch_cpu.so needs libraries that are not there: ${missing}")
endif()
list(APPEND needed "${torch_root}/lib/libtorch_cpu.so" "${torch_root}/lib/libc10.so")

# The CPU's set of packages has libtorch_cuda.so too (it is in the wheel), but not what it links.
file(GLOB cudnn "${site}/nvidia/cudnn/lib/libcudnn.so*" "${torch_root}/lib/libcudnn.so*")
file(GLOB cuda "${torch_root}/lib/libtorch_cuda*.so")
if(cuda AND cudnn)
  message(STATUS "CUDA libraries are there and go along")
  file(GLOB all "${torch_root}/lib/*.so*" "${site}/nvidia/*/lib/*.so*")
  list(FILTER all EXCLUDE REGEX "libtorch_python|libshm")
  list(APPEND needed ${all})
else()
  message(STATUS "No CUDA libraries: the installed program runs on the CPU")
endif()

foreach(library ${needed})
  get_filename_component(name "${library}" NAME)
  get_filename_component(dir "${library}" DIRECTORY)
  get_filename_component(dir "${dir}" REALPATH) # ".../torch/lib/../../nvidia/cu13/lib"
  string(FIND "${dir}/" "${torch_root}/lib/" in_torch)
  string(FIND "${dir}/" "${site}/nvidia/" in_nvidia)
  if(in_torch EQUAL 0)
    set(to "${destination}/torch/lib")
  elseif(in_nvidia EQUAL 0)
    file(RELATIVE_PATH relative "${site}" "${dir}")
    set(to "${destination}/${relative}")
  else()
    continue()
  endif()
  file(INSTALL DESTINATION "${to}" TYPE SHARED_LIBRARY FOLLOW_SYMLINK_CHAIN FILES "${dir}/${name}")
endforeach()
