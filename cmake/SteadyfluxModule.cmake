# steadyflux_module(name [TORCH] DEPS ...): the static library steadyflux_<name> from src/<name>/*.cpp.
# A module with TORCH may include ATen headers and shares one precompiled header.

function(steadyflux_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ 12 sees these falsely at -O3: inside nlohmann::json, and in "text" + std::string.
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-stringop-overflow
                                             -Wno-restrict)
  endif()
  if(STEADYFLUX_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

if(STEADYFLUX_SANITIZE)
  add_compile_options(-fsanitize=${STEADYFLUX_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=${STEADYFLUX_SANITIZE})
endif()

if(STEADYFLUX_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

if(STEADYFLUX_PCH)
  file(WRITE ${CMAKE_BINARY_DIR}/pch.cpp "")
  add_library(steadyflux_pch OBJECT ${CMAKE_BINARY_DIR}/pch.cpp)
  target_link_libraries(steadyflux_pch PRIVATE libtorch::libtorch fmt::fmt)
  steadyflux_warnings(steadyflux_pch)  # the flags must be those of its users
  target_precompile_headers(steadyflux_pch PRIVATE <ATen/ATen.h>)
endif()

# Tests and modules that use libtorch call this.
function(steadyflux_use_torch target)
  target_link_libraries(${target} PUBLIC libtorch::libtorch)
  if(STEADYFLUX_PCH)
    target_link_libraries(${target} PUBLIC fmt::fmt)
    target_precompile_headers(${target} REUSE_FROM steadyflux_pch)
  endif()
endfunction()

function(steadyflux_module name)
  cmake_parse_arguments(ARG "TORCH" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  set(target steadyflux_${name})
  if(NOT ARG_TORCH)
    set(STEADYFLUX_TORCH_FREE_MODULES ${STEADYFLUX_TORCH_FREE_MODULES} ${name} PARENT_SCOPE)
  endif()
  if(NOT sources)
    add_library(${target} INTERFACE)
    return()
  endif()
  add_library(${target} STATIC ${sources})
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
  steadyflux_warnings(${target})
  foreach(dep ${ARG_DEPS})
    if(TARGET steadyflux_${dep})
      target_link_libraries(${target} PUBLIC steadyflux_${dep})
    else()
      target_link_libraries(${target} PUBLIC ${dep})
    endif()
  endforeach()
  if(ARG_TORCH)
    steadyflux_use_torch(${target})
  endif()
endfunction()
