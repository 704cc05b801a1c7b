#include "tokenizer/tokenizer_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "steadyflux/error.h"

namespace steadyflux {

void bad_tokenizer_file(const std::filesystem::path& file, const std::string& what) {
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: {}; restore the tokenizer's files from the model's source",
                          file.string(), what));
}

nlohmann::json read_optional_json_object(const std::filesystem::path& file) {
  std::error_code error;
  return std::filesystem::exists(file, error) ? read_json_object(file) : nlohmann::json::object();
}

}  // namespace steadyflux
