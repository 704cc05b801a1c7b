// What reading the files of a tokenizer folder needs beyond base/json.h.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace steadyflux {

// Throws Error{kBadInput}: "FILE: WHAT; restore the tokenizer's files from the model's source".
[[noreturn]] void bad_tokenizer_file(const std::filesystem::path& file, const std::string& what);

// The JSON object in a file, or an empty object if there is no such file.
nlohmann::json read_optional_json_object(const std::filesystem::path& file);

}  // namespace steadyflux
