// JSON from files nobody has checked yet. Stricter than the library's parser: a key given twice and
// deep nesting are errors, and every failure is an Error that names the file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace steadyflux {

// Throws Error{kBadInput} naming `file` unless `text` is one JSON value in UTF-8, at most 64 levels
// deep, without duplicate keys.
nlohmann::json parse_json(std::string_view text, const std::filesystem::path& file);
// Reads and parses a file, whose top level must be an object.
nlohmann::json read_json_object(const std::filesystem::path& file);

}  // namespace steadyflux
