# Everything that comes from Debian packages; scripts/setup.sh installs them, docs/dependencies.md
# says why each is there.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ICU REQUIRED COMPONENTS uc)

find_path(STB_INCLUDE_DIR stb_image_write.h PATH_SUFFIXES stb REQUIRED)
add_library(stb::stb INTERFACE IMPORTED)
target_include_directories(stb::stb SYSTEM INTERFACE ${STB_INCLUDE_DIR})

find_path(WEBP_INCLUDE_DIR webp/decode.h REQUIRED)
find_library(WEBP_LIBRARY webp REQUIRED)
add_library(webp::webp INTERFACE IMPORTED)
target_include_directories(webp::webp SYSTEM INTERFACE ${WEBP_INCLUDE_DIR})
target_link_libraries(webp::webp INTERFACE ${WEBP_LIBRARY})

find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)  # XXH_INLINE_ALL: nothing to link
