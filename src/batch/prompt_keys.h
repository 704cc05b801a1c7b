// What may stand beside a prompt: the keys of JSON objects and the columns of CSV files, which are
// the long names of options, and a few other spellings of them.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "batch/prompt_file.h"

namespace steadyflux {

// How a value is written.
enum class PromptValue {
  kText,    // for an encoder: blanks around it count
  kString,  // of any other kind
  kNumber,
  kWhole,  // a whole number
};
// `name` is of PromptKeys::claim.
PromptValue prompt_value(std::string_view name);

// Fit for a name: `key` in single quotes, without control characters.
std::string quoted_key(std::string_view key);

// The keys of one object or header: each may be there once, in one spelling.
class PromptKeys {
 public:
  // The option that `key` means, or "prompt". Throws Error{kBadInput} if there is no such option,
  // or it was claimed before.
  std::string claim(std::string_view key);
  bool has(const std::string& name) const { return spelled_.contains(name); }

 private:
  std::map<std::string, std::string> spelled_;  // name -> as it was written
};

// Puts `value` into the entry. `name` is of PromptKeys::claim, `key` how it was written.
void set_prompt_value(PromptEntry& entry, const std::string& name, std::string_view key,
                      std::string value);

}  // namespace steadyflux
