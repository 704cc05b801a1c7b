#include "cli/batch_items.h"

#include <fmt/format.h>

#include "base/utf8.h"
#include "batch/settings_key.h"
#include "cli/prompt_options.h"
#include "image/file_names.h"
#include "image/output_file.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void bad_entry(const std::string& place, const std::string& what) {
  throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", place, what));
}

}  // namespace

BatchItems::BatchItems(const CommandLine& line, const BatchJob& job, const Pipeline& pipeline,
                       std::string model_hash)
    : line_(line), job_(job), pipeline_(pipeline), model_hash_(std::move(model_hash)) {}

std::string BatchItems::name_of(const BatchEntry& entry, const std::string& place) const {
  if (entry.output.empty()) return fmt::format("{:04}.png", entries_ + 1);
  const fs::path path = fs::path(entry.output).lexically_normal();
  if (path.is_absolute() || path.begin()->string() == ".." || !path.has_filename()) {
    bad_entry(place, fmt::format("output {}: expected the name of a file below the output folder",
                                 printable(entry.output)));
  }
  if (path.filename() == "journal.jsonl") bad_entry(place, "output journal.jsonl: is the journal");
  try {
    picture_format(path);
  } catch (const Error& error) {
    bad_entry(place, error.what());
  }
  return path.generic_string();
}

std::vector<BatchItem> BatchItems::add(const PromptEntry& prompt, const std::string& place) {
  const auto entry = make_batch_entry(line_, job_, prompt, place);
  const auto name = name_of(entry, place);
  try {
    pipeline_.check(entry.request);
  } catch (const Error& error) {
    bad_entry(place, error.what());
  }
  std::vector<BatchItem> items;
  for (std::int64_t i = 0; i < entry.request.num_images; ++i) {
    BatchItem item;
    item.index = pictures_ + i;
    item.entry = entries_;
    item.line = prompt.line;
    item.place = place;
    item.request = entry.request;
    item.request.num_images = 1;
    item.request.seed += static_cast<std::uint64_t>(i);
    item.any_seed = entry.has_random_seed;
    item.output = numbered_path(name, i, entry.request.num_images).generic_string();
    item.metadata = describe(job_.defaults, item.request, pipeline_, model_hash_);
    item.settings_json = picture_settings(item.metadata, item.any_seed);
    item.settings = settings_key(item.settings_json);
    items.push_back(std::move(item));
  }
  for (const auto& item : items) {
    if (folders_.contains(item.output)) {
      bad_entry(place, fmt::format("output {}: is the folder of another picture", item.output));
    }
    for (fs::path folder = fs::path(item.output).parent_path(); !folder.empty();
         folder = folder.parent_path()) {
      if (names_.contains(folder.generic_string())) {
        bad_entry(place, fmt::format("output {}: {} is a picture of {}", item.output,
                                     folder.generic_string(), names_.at(folder.generic_string())));
      }
      folders_.insert(folder.generic_string());
    }
    const auto [other, is_new] = names_.try_emplace(item.output, place);
    if (is_new) continue;
    bad_entry(place, fmt::format("output {}: {} has the same", item.output, other->second));
  }
  for (const auto& warning : guidance_warnings(entry.request)) {
    if (warned_of_.insert(warning).second) {
      warnings_.push_back(fmt::format("{}: {}", place, warning));
    }
  }
  ++entries_;
  pictures_ += entry.request.num_images;
  return items;
}

}  // namespace steadyflux::cli
