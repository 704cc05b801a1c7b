#include "base/json.h"

#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

Error bad_json(const std::filesystem::path& file, const std::string& what) {
  return Error(ErrorKind::kBadInput,
               fmt::format("{}: not a valid JSON file: {}; it is damaged, fetch it again",
                           file.string(), what));
}

}  // namespace

json parse_json(std::string_view text, const std::filesystem::path& file) {
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos) {
    throw bad_json(file, fmt::format("invalid UTF-8 at byte {}", at));
  }
  std::vector<std::set<std::string>> open_objects;  // the keys seen so far, outermost first
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        open_objects.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= kMaxDepth) {
          throw bad_json(file, fmt::format("nested deeper than {} levels", kMaxDepth));
        }
        break;
      case json::parse_event_t::object_end:
        open_objects.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!open_objects.back().insert(key).second) {
          throw bad_json(file, fmt::format("the key '{}' is given twice", printable(key)));
        }
        break;
      }
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    throw bad_json(file, fmt::format("syntax error at byte {}", error.byte));
  } catch (const json::exception&) {
    throw bad_json(file, "a number is out of range");
  }
}

json read_json_object(const std::filesystem::path& file) {
  json value = parse_json(read_text_file(file), file);
  if (!value.is_object()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: the top level is {}, expected an object",
                                                  file.string(), value.type_name()));
  }
  return value;
}

}  // namespace steadyflux
