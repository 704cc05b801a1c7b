// Taking names apart, for the rules of key_names.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weights/key_names.h"

namespace steadyflux::key_names {

// One module's two names, without ".weight" and ".bias".
struct Rename {
  std::string_view stored;
  std::string_view ours;
};

// Takes `expected` off the front of `text` if it is there.
inline bool take(std::string_view& text, std::string_view expected) {
  if (!text.starts_with(expected)) return false;
  text.remove_prefix(expected.size());
  return true;
}

// Takes "12." off the front: the number, or "" (and `text` unchanged). Four digits at most; one
// number has one text, so no leading zeros.
inline std::string_view take_number(std::string_view& text) {
  const auto end = text.find('.');
  if (end == std::string_view::npos || end == 0 || end > 4) return {};
  const auto number = text.substr(0, end);
  const bool digits =
      std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || (number.size() > 1 && number.front() == '0')) return {};
  text.remove_prefix(end + 1);
  return number;
}

inline bool is_weight_or_bias(std::string_view leaf) { return leaf == "weight" || leaf == "bias"; }

// "a.b.weight" -> {"a.b", "weight"}
struct ModuleAndLeaf {
  std::string_view module;
  std::string_view leaf;
};
inline ModuleAndLeaf split_leaf(std::string_view name) {
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos) return {{}, name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

// "" if the table does not have it.
template <typename Table>
std::string_view ours_of(const Table& table, std::string_view stored) {
  for (const Rename& rename : table) {
    if (rename.stored == stored) return rename.ours;
  }
  return {};
}
template <typename Table>
std::string_view stored_of(const Table& table, std::string_view ours) {
  for (const Rename& rename : table) {
    if (rename.ours == ours) return rename.stored;
  }
  return {};
}

template <typename... Parts>
std::string join(const Parts&... parts) {
  std::string result;
  (result.append(parts), ...);
  return result;
}

inline std::vector<RowPlacement> whole(std::string name) { return {{.name = std::move(name)}}; }

}  // namespace steadyflux::key_names
