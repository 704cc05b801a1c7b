// What the values of options mean, one by one. Each throws Error: kUsage that names the option and
// says what is expected, or kBadInput for a file that is not there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

[[noreturn]] void usage_error(const std::string& message);

// A whole number from `lowest` to `highest`.
std::int64_t parse_in_range(const char* name, const std::string& text, std::int64_t lowest,
                            std::int64_t highest);
std::int64_t parse_side(const char* name, const std::string& text);  // a multiple of 16
double parse_scale(const char* name, const std::string& text);       // finite, 0 or more
std::uint64_t parse_seed(const std::string& text);                   // -1: a random one
double parse_positive(const char* name, const std::string& text);
double parse_strength(const std::string& text);
void check_one_of(const char* name, const std::string& text,
                  std::initializer_list<const char*> accepted);
void check_device(const std::string& text);
std::int64_t parse_limit(const char* name, const std::string& text);  // bytes
std::filesystem::path parse_report(const std::string& text);

// A LoRA that is there.
std::filesystem::path checked_lora(const std::filesystem::path& path);
// One LoRA a line, FILE or FILE:SCALE. An empty text is none.
std::vector<LoraUse> parse_loras(const std::string& text);
// --redux-image: FILE or FILE:SCALE, one a line. Files are looked at, and read when they are asked
// for. Throws Error: kUsage, kBadInput for a file that is no picture.
std::vector<ReduxImage> parse_redux_images(const std::string& text);
ReduxImage make_redux_image(const std::filesystem::path& path, double scale);

}  // namespace steadyflux::cli
