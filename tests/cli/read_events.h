// Events as a test gets them back.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "cli/json_output.h"

namespace steadyflux::cli {

// Every line has to be one JSON value.
inline std::vector<Json> parse_events(const std::string& text) {
  std::vector<Json> events;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line));
  return events;
}

inline std::vector<Json> read_events(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return parse_events({std::istreambuf_iterator<char>(in), {}});
}

inline std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

}  // namespace steadyflux::cli
