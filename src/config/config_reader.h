// One JSON configuration file, read key by key. Every getter checks type and range and throws
// Error{kBadInput} naming file, key, what was found and what is allowed; a key that is missing
// gives the fallback, as in diffusers and transformers. Keys nobody asks for are ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "steadyflux/error.h"

namespace steadyflux {

class ConfigReader {
 public:
  explicit ConfigReader(const std::filesystem::path& file);
  // What a file holds elsewhere than alone: `where` is how errors call it.
  ConfigReader(nlohmann::json root, std::filesystem::path where)
      : file_(std::move(where)), root_(std::move(root)) {}

  // True if the key is there and not null.
  bool has(const std::string& key) const;
  std::int64_t integer(const std::string& key, std::int64_t fallback, std::int64_t min,
                       std::int64_t max) const;
  double number(const std::string& key, double fallback, double min, double max) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  // One of `allowed`.
  std::string choice(const std::string& key, const std::string& fallback,
                     const std::vector<std::string>& allowed) const;
  // 1 to `max_count` integers.
  std::vector<std::int64_t> integers(const std::string& key, std::vector<std::int64_t> fallback,
                                     std::size_t max_count, std::int64_t min,
                                     std::int64_t max) const;
  // For features this program lacks: the key may be absent, null, false or empty, nothing else.
  void refuse(const std::string& key) const;
  // `_class_name` must be there and be `expected`.
  void expect_class(const std::string& expected) const;

  // "<file>: <key> is <value>, expected <expected>"
  Error fail(const std::string& key, const std::string& expected) const;
  const std::filesystem::path& file() const { return file_; }
  const nlohmann::json& root() const { return root_; }

 private:
  const nlohmann::json* find(const std::string& key) const;
  std::filesystem::path file_;
  nlohmann::json root_;
};

}  // namespace steadyflux
