// The pictures of a batch, one by one: what each is called, how it is made, and the key under which
// the journal knows it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cli/picture_output.h"
#include "cli/request.h"

namespace steadyflux::cli {

struct BatchItem {
  std::int64_t index = 0;  // of the picture, in the file or stream
  std::int64_t entry = 0;  // of its prompt, likewise
  std::int64_t line = 0;   // of its prompt; 0: there are no lines
  std::string place;       // "prompts.txt:3", for messages
  Request request;         // of this one picture
  bool any_seed = false;   // a random one was drawn
  std::string output;      // below the folder, generic form
  PictureMetadata metadata;
  nlohmann::json settings_json;
  std::string settings;  // its key
};

// Makes items out of entries, in their order. Names that entries do not give are the number of the
// prompt, counted from 1: 0001.png, 0002.png. Several pictures of a prompt are numbered.
class BatchItems {
 public:
  BatchItems(const CommandLine& line, const BatchJob& job, const Pipeline& pipeline,
             std::string model_hash);

  // Throws Error{kBadInput} that begins with `place`: for settings out of range or that the model
  // cannot have, for a name outside of the folder or one that another entry has.
  std::vector<BatchItem> add(const PromptEntry& entry, const std::string& place);

  // What is wrong with entries, but no error; each is said of the first such entry, and once.
  std::vector<std::string> take_warnings() { return std::exchange(warnings_, {}); }

 private:
  std::string name_of(const BatchEntry& entry, const std::string& place) const;

  const CommandLine& line_;
  const BatchJob& job_;
  const Pipeline& pipeline_;
  std::string model_hash_;
  std::int64_t entries_ = 0;
  std::int64_t pictures_ = 0;
  std::map<std::string, std::string> names_;  // -> place
  std::set<std::string> folders_;             // that pictures lie in
  std::set<std::string> warned_of_;
  std::vector<std::string> warnings_;
};

}  // namespace steadyflux::cli
