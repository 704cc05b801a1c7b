#include "cli/batch_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>
#include <thread>
#include <utility>

#include "batch/settings_key.h"
#include "cli/batch_answers.h"
#include "cli/json_output.h"
#include "cli/latents_files.h"
#include "cli/signals.h"
#include "image/output_file.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds kWaitForOthers{200};

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || !fs::is_directory(folder)) {
    throw Error(ErrorKind::kIo,
                fmt::format("{}: cannot be made: {}", folder.string(),
                            error ? error.message() : "a file of this name is there"));
  }
}

}  // namespace

Batch::Batch(const BatchJob& job, Pipeline& pipeline, Console& console,
             std::optional<std::int64_t> total)
    : job_(job),
      pipeline_(pipeline),
      console_(console),
      folder_(job.defaults.output),
      journal_(open_journal(folder_)),
      progress_(console, {.model = job.defaults.model.name, .device = pipeline.device_name()},
                total),
      events_(job.defaults.events, pipeline.device_name(), console, progress_),
      store_(open_embeds_store(job.defaults, pipeline, console)) {
  for (const auto& warning : journal_.warnings()) console_.warning(warning);
  clean(folder_);
  check_target("contact-sheet", job.contact_sheet);  // they may go into the folder made just now
  check_target("gallery", job.gallery);
}

bool Batch::check(const BatchItem& item) {
  clean((folder_ / item.output).parent_path());
  const auto state = state_of(item);
  if (state == OutputState::kDone) return true;
  if (job_.overwrite || state == OutputState::kMissing) return false;
  const auto path = (folder_ / item.output).string();
  throw Error(ErrorKind::kUsage,
              state == OutputState::kChanged
                  ? fmt::format("{}: {} is there, made with other settings; use another folder, or "
                                "--overwrite to make it anew",
                                item.place, path)
                  : fmt::format("{}: {} is there and not by this batch; use another folder, or "
                                "--overwrite to replace it",
                                item.place, path));
}

void Batch::make(std::vector<BatchItem> items) {
  std::deque<BatchItem> pending(std::make_move_iterator(items.begin()),
                                std::make_move_iterator(items.end()));
  while (!pending.empty()) {
    throw_if_interrupted();
    const auto before = pending.size();
    auto chunk = claim_chunk(pending);
    if (chunk.empty() && pending.size() == before) {  // others are at all that is left
      std::this_thread::sleep_for(kWaitForOthers);
      journal_.refresh();
      continue;
    }
    if (!chunk.empty()) make_chunk(std::move(chunk));
  }
}

void Batch::make_shared(const std::vector<BatchItem>& items, WorkShare& share) {
  journal_.refresh();  // only now: what others finished while we met them
  std::vector<std::int64_t> done_before;
  for (const auto& item : items) {
    if (!is_done(item)) continue;
    skip(item);
    done_before.push_back(item.index);
  }
  share.done(done_before);
  const auto interrupted = [] { return pending_signal() != 0; };
  on_item_ = [&share](const BatchItem& item, bool done) {
    done ? share.done(item.index) : share.failed(item.index);
  };
  while (true) {
    throw_if_interrupted();
    const auto taken = take(items, share);
    if (taken.empty()) {
      if (share.all_done()) break;
      share.wait(interrupted);
      continue;
    }
    journal_.refresh();
    std::vector<BatchItem> chunk;
    for (const auto index : taken) {
      const auto& item = items[static_cast<std::size_t>(index)];
      if (check(item)) {
        skip_for_good(item);
        share.done(index);
      } else {
        chunk.push_back(item);
      }
    }
    if (!chunk.empty()) make_chunk(std::move(chunk));
  }
  on_item_ = {};
  failures_ = std::max(failures_, share.progress().failed);
  share.finish(interrupted);
}

void Batch::answer_error(std::int64_t line, const std::exception& error) {
  ++failures_;
  const auto shown = as_error(error);
  const std::string place = fmt::format("line {}: ", line);
  std::string text = shown.what();
  if (text.rfind(place, 0) != 0) text = place + text;
  Json answer = {{"line", line}, {"error", text}, {"exit_code", shown.exit_code()}};
  if (answers_on_stdout()) print_json_line(answer);
  console_.warning(text);
}

Journal Batch::open_journal(const fs::path& folder) {
  make_folder(folder);
  return Journal::open(folder);
}

void Batch::clean(const fs::path& folder) {
  if (cleaned_.insert(folder).second) remove_stale_temporaries(folder);
}

OutputState Batch::state_of(const BatchItem& item) const {
  return output_state(journal_, folder_, item.output, item.settings,
                      [&](const fs::path& path) -> std::optional<std::string> {
                        const auto recorded = recorded_settings(path, item.any_seed);
                        if (!recorded) return std::nullopt;
                        return settings_key(*recorded);
                      });
}

void Batch::skip(const BatchItem& item) {
  ++skipped_;
  progress_.pictures_skipped(1);
  LatentsFiles::remove(folder_, item.output);  // of a process killed between its picture and this
  if (!answers_on_stdout()) return;
  auto answer = batch_answer(item, folder_);
  answer["skipped"] = true;
  print_json_line(answer);
}

bool Batch::is_journaled(const BatchItem& item) const {
  const auto* entry = journal_.find(item.output);
  return entry != nullptr && entry->settings == item.settings;
}

void Batch::skip_for_good(const BatchItem& item) {
  if (!is_journaled(item)) journal_.append(done_line(item));
  skip(item);
}

std::size_t Batch::chunk_size(const std::vector<Request>& requests) const {
  if (job_.prompt_by_prompt || requests.size() == 1) return 1;
  return pipeline_.chunk_size(requests);
}

std::vector<BatchItem> Batch::claim_chunk(std::deque<BatchItem>& pending) {
  std::vector<Request> requests;
  for (const auto& item : pending) {
    if (requests.size() == job_.defaults.chunk_size) break;
    requests.push_back(item.request);
  }
  const auto size = chunk_size(requests);
  std::vector<BatchItem> chunk;
  for (auto it = pending.begin(); it != pending.end() && chunk.size() < size;) {
    if (is_journaled(*it) && is_done(*it)) {
      skip(*it);
    } else if (!journal_.try_claim(it->output)) {
      ++it;
      continue;
    } else if (check(*it)) {  // made while we looked the other way; maybe with other settings
      skip_for_good(*it);
      journal_.release(it->output);
    } else {
      chunk.push_back(std::move(*it));
    }
    it = pending.erase(it);
  }
  return chunk;
}

std::vector<std::int64_t> Batch::take(const std::vector<BatchItem>& items, WorkShare& share) {
  const auto progress = share.progress();
  // Leave something for the others: near the end everybody takes little.
  const auto fair = std::max<std::int64_t>(
      progress.unfinished() / (2 * std::max<std::int64_t>(progress.processes, 1)), 1);
  while (first_open_ < items.size() && is_done(items[first_open_])) ++first_open_;
  std::vector<Request> requests;
  for (auto i = first_open_; i < items.size(); ++i) {
    if (requests.size() == std::min(job_.defaults.chunk_size, static_cast<std::size_t>(fair))) {
      break;
    }
    requests.push_back(items[i].request);
  }
  if (requests.empty()) requests.push_back(items.front().request);
  return share.take(static_cast<std::int64_t>(chunk_size(requests)));
}

void Batch::make_chunk(std::vector<BatchItem> chunk) {
  // LoRAs change weights: pictures with others are made apart, and so are those with other stages.
  const auto other = std::find_if(chunk.begin(), chunk.end(), [&](const BatchItem& item) {
    return !can_be_made_together(item.request, chunk.front().request);
  });
  if (other != chunk.end()) {
    std::vector<BatchItem> rest(other, chunk.end());
    chunk.erase(other, chunk.end());
    make_chunk(std::move(chunk));
    make_chunk(std::move(rest));
    return;
  }
  std::vector<bool> done(chunk.size(), false);
  try {
    run_pipeline(chunk, done);
    return;
  } catch (const std::exception& error) {
    const auto kind = as_error(error).kind();
    const bool for_good = kind == ErrorKind::kInterrupted || kind == ErrorKind::kIo;
    if (for_good) throw;
    if (chunk.size() == 1) {
      fail(chunk.front(), error);
      return;
    }
  }
  for (std::size_t i = 0; i < chunk.size(); ++i) {
    if (!done[i]) make_chunk({chunk[i]});
  }
}

void Batch::run_pipeline(const std::vector<BatchItem>& chunk, std::vector<bool>& done) {
  std::vector<Request> requests;
  for (const auto& item : chunk) {
    requests.push_back(item.request);
    // A PNG tells itself how it was made; for others the journal has to, before they are there.
    if (picture_format(item.output) == PictureFormat::kPng) continue;
    auto line = journal_line("started", item.output);
    line["settings"] = item.settings;
    journal_.append(line);
  }
  const auto count = static_cast<std::int64_t>(chunk.size());
  progress_.chunk_started(count);
  events_.chunk_started(count);
  LatentsFiles latents(folder_, job_.checkpoint_every, pipeline_.dtype_name());
  for (const auto& item : chunk) latents.add(item.output, item.settings);
  const auto on_image = [&](std::size_t i, std::int64_t, const Image& image) {
    finish(chunk[i], image, progress_.passes().take(i, 0));
    LatentsFiles::remove(folder_, chunk[i].output);
    done[i] = true;
  };
  pipeline_.generate(requests, events_.observer(), on_image, store_.get(),
                     job_.checkpoint_every > 0 ? &latents : nullptr);
  progress_.chunk_finished();
  events_.release_memory();
}

nlohmann::json Batch::done_line(const BatchItem& item) const {
  auto line = journal_line("done", item.output);
  line["settings"] = item.settings;
  line["bytes"] = fs::file_size(folder_ / item.output);
  for (const auto& [key, value] : item.settings_json.items()) {
    if (key != "version") line[key] = value;
  }
  line["seed"] = item.metadata.seed;
  return line;
}

void Batch::finish(const BatchItem& item, const Image& image,
                   const std::optional<PassCounts>& passes) {
  const auto path = folder_ / item.output;
  if (path.has_parent_path()) make_folder(path.parent_path());
  auto made = item;
  made.metadata = of_image(item.metadata, image);
  write_picture(path.string(), made.metadata, image);
  const auto seconds =
      events_.picture(item.index, item.entry, path.string(), item.metadata.seed, passes);
  auto line = done_line(item);
  line["seconds"] = seconds;
  journal_.append(line);
  journal_.release(item.output);
  ++made_;
  progress_.picture_finished(item.output, seconds, passes);
  if (on_item_) on_item_(item, true);
  if (!answers_on_stdout()) return;
  auto answer = batch_answer(made, folder_);
  answer["seconds"] = seconds;
  if (passes) answer["passes"] = passes_json(*passes);
  print_json_line(answer);
}

void Batch::fail(const BatchItem& item, const std::exception& error) {
  const auto shown = as_error(error);
  auto line = journal_line("failed", item.output);
  line["settings"] = item.settings;
  line["error"] = shown.what();
  journal_.append(line);
  journal_.release(item.output);
  events_.failed(error, item.entry);
  if (on_item_) on_item_(item, false);
  const Error placed(shown.kind(), fmt::format("{}: {}", item.place, shown.what()));
  if (job_.keep_going) {
    ++failures_;
    progress_.picture_failed(item.output, shown.what());
  }
  if (answers_on_stdout()) print_json_line(batch_error_answer(item, placed));
  if (!job_.keep_going) throw placed;
}

}  // namespace steadyflux::cli
