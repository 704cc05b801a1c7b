# Targets that look at the code without building it:
#   format, format-check   clang-format; CI has version 14, and other versions differ in details
#   tidy                   clang-tidy on the files that do not use libtorch (quick)
#   tidy-all               on all files; wants the preset no-pch, as clang does not read g++'s PCH
find_program(STEADYFLUX_CLANG_FORMAT NAMES clang-format-14 clang-format)
find_program(STEADYFLUX_RUN_CLANG_TIDY NAMES run-clang-tidy-14 run-clang-tidy)

file(GLOB_RECURSE _formatted CONFIGURE_DEPENDS include/*.h src/*.h src/*.cpp tests/*.h tests/*.cpp
     benchmarks/*.h benchmarks/*.cpp)
if(STEADYFLUX_CLANG_FORMAT)
  add_custom_target(format COMMAND ${STEADYFLUX_CLANG_FORMAT} -i ${_formatted})
  add_custom_target(format-check COMMAND ${STEADYFLUX_CLANG_FORMAT} --dry-run --Werror ${_formatted})
endif()
if(STEADYFLUX_RUN_CLANG_TIDY)
  # clang has no header of OpenMP's here.
  set(_tidy ${STEADYFLUX_RUN_CLANG_TIDY} -quiet -j2 -extra-arg=-Wno-unknown-warning-option
            -extra-arg=-fno-openmp -p ${CMAKE_BINARY_DIR})
  string(REPLACE ";" "|" _torch_free "${STEADYFLUX_TORCH_FREE_MODULES}")
  add_custom_target(tidy COMMAND ${_tidy} "${CMAKE_SOURCE_DIR}/src/(${_torch_free})/" VERBATIM)
  add_custom_target(tidy-all COMMAND ${_tidy} "${CMAKE_SOURCE_DIR}/src/" VERBATIM)
endif()
