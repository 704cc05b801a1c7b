// steadyflux batch: the pictures of a prompt file or a stream of prompts. Chunks of them go through
// the phases together; the journal says what is finished, so that the same command goes on where it
// was stopped, and locks say what other processes are at.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <iterator>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "base/utf8.h"
#include "batch/contact_sheet.h"
#include "batch/gallery.h"
#include "batch/journal.h"
#include "batch/line_reader.h"
#include "batch/output_state.h"
#include "batch/settings_key.h"
#include "cli/batch_items.h"
#include "cli/batch_progress.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/embeds_store.h"
#include "cli/json_output.h"
#include "cli/latents_files.h"
#include "cli/run_events.h"
#include "cli/signals.h"
#include "image/output_file.h"
#include "memory/plan.h"
#include "memory/plan_advice.h"
#include "pipeline/planning.h"
#include "sharing/work_share.h"

namespace steadyflux::cli {
namespace {

namespace fs = std::filesystem;

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

void throw_if_interrupted() {
  if (const int signal = pending_signal()) throw Interrupted(signal);
}

class Batch {
 public:
  Batch(const BatchJob& job, Pipeline& pipeline, Console& console,
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

  RunEvents& events() { return events_; }
  std::int64_t failures() const { return failures_; }
  bool answers_on_stdout() const { return job_.defaults.json || job_.source == "-"; }

  // True if the picture is done. Removes what a killed run left beside it, and throws if something
  // else has its name.
  bool check(const BatchItem& item) {
    clean((folder_ / item.output).parent_path());
    const auto state = state_of(item);
    if (state == OutputState::kDone) return true;
    if (job_.overwrite || state == OutputState::kMissing) return false;
    const auto path = (folder_ / item.output).string();
    throw Error(
        ErrorKind::kUsage,
        state == OutputState::kChanged
            ? fmt::format("{}: {} is there, made with other settings; use another folder, or "
                          "--overwrite to make it anew",
                          item.place, path)
            : fmt::format("{}: {} is there and not by this batch; use another folder, or "
                          "--overwrite to replace it",
                          item.place, path));
  }

  bool is_done(const BatchItem& item) const { return state_of(item) == OutputState::kDone; }

  // Makes those of the items that are not there, chunk by chunk. What another process is at is
  // waited for.
  void make(std::vector<BatchItem> items) {
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

  // The items that `share` hands to this process, until all are done by someone.
  void make_shared(const std::vector<BatchItem>& items, WorkShare& share) {
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

  void answer_error(std::int64_t line, const std::exception& error) {
    ++failures_;
    const auto shown = as_error(error);
    const std::string place = fmt::format("line {}: ", line);
    std::string text = shown.what();
    if (text.rfind(place, 0) != 0) text = place + text;
    Json answer = {{"line", line}, {"error", text}, {"exit_code", shown.exit_code()}};
    if (answers_on_stdout()) print_json_line(answer);
    console_.warning(text);
  }

  // An overview must not take the place of a picture.
  void check_overviews(const std::vector<BatchItem>& items) const {
    for (const auto& [option, path] :
         {std::pair{"contact-sheet", job_.contact_sheet}, std::pair{"gallery", job_.gallery}}) {
      if (path.empty()) continue;
      const auto overview = fs::weakly_canonical(path);
      for (const auto& item : items) {
        if (fs::weakly_canonical(folder_ / item.output) != overview) continue;
        throw Error(ErrorKind::kUsage, fmt::format("--{} {}: is the picture of {}", option,
                                                   path.string(), item.place));
      }
    }
  }

  // Contact sheet and gallery of what is there.
  void write_overviews(const std::vector<BatchItem>& items) {
    std::vector<fs::path> pictures;
    std::vector<GalleryItem> gallery;
    for (const auto& item : items) {
      const auto path = folder_ / item.output;
      if (!fs::exists(path)) continue;
      pictures.push_back(path);
      const auto& metadata = item.metadata;
      GalleryItem entry{path, item.request.prompt, {}};
      entry.settings = {{"size", fmt::format("{} x {}", metadata.width, metadata.height)},
                        {"steps", fmt::format("{}", metadata.num_inference_steps)},
                        {"seed", fmt::format("{}", metadata.seed)}};
      if (metadata.guidance_scale) {
        entry.settings.emplace_back("guidance", fmt::format("{}", *metadata.guidance_scale));
      }
      entry.settings.emplace_back("model", metadata.model);
      gallery.push_back(std::move(entry));
    }
    if (pictures.empty()) return;
    const auto warn = [this](const std::vector<std::string>& problems) {
      for (const auto& problem : problems) console_.warning(problem);
    };
    if (!job_.contact_sheet.empty()) warn(write_contact_sheet(pictures, job_.contact_sheet));
    if (!job_.gallery.empty()) warn(write_gallery(gallery, job_.gallery));
  }

  std::int64_t made() const { return made_; }
  std::int64_t skipped() const { return skipped_; }

 private:
  static Journal open_journal(const fs::path& folder) {
    make_folder(folder);
    return Journal::open(folder);
  }

  void clean(const fs::path& folder) {
    if (cleaned_.insert(folder).second) remove_stale_temporaries(folder);
  }

  OutputState state_of(const BatchItem& item) const {
    return output_state(journal_, folder_, item.output, item.settings,
                        [&](const fs::path& path) -> std::optional<std::string> {
                          const auto recorded = recorded_settings(path, item.any_seed);
                          if (!recorded) return std::nullopt;
                          return settings_key(*recorded);
                        });
  }

  void skip(const BatchItem& item) {
    ++skipped_;
    progress_.pictures_skipped(1);
    LatentsFiles::remove(folder_, item.output);  // of a process killed between its picture and this
    if (!answers_on_stdout()) return;
    auto answer = answer_of(item);
    answer["skipped"] = true;
    print_json_line(answer);
  }

  bool is_journaled(const BatchItem& item) const {
    const auto* entry = journal_.find(item.output);
    return entry != nullptr && entry->settings == item.settings;
  }

  // Of an item that is done and this process's: a kill may have come before its line.
  void skip_for_good(const BatchItem& item) {
    if (!is_journaled(item)) journal_.append(done_line(item));
    skip(item);
  }

  // How many of the first requests go into one chunk.
  std::size_t chunk_size(const std::vector<Request>& requests) const {
    if (job_.prompt_by_prompt || requests.size() == 1) return 1;
    return pipeline_.chunk_size(requests);
  }

  // Takes out of `pending` what no other process is at, and what is done on the way there.
  std::vector<BatchItem> claim_chunk(std::deque<BatchItem>& pending) {
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

  std::vector<std::int64_t> take(const std::vector<BatchItem>& items, WorkShare& share) {
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

  // One after the other if together they fail, so that one does not take the others with it.
  void make_chunk(std::vector<BatchItem> chunk) {
    // LoRAs change weights: pictures with others are made apart.
    const auto other = std::find_if(chunk.begin(), chunk.end(), [&](const BatchItem& item) {
      return item.request.loras != chunk.front().request.loras;
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

  void run_pipeline(const std::vector<BatchItem>& chunk, std::vector<bool>& done) {
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
      finish(chunk[i], image);
      LatentsFiles::remove(folder_, chunk[i].output);
      done[i] = true;
    };
    pipeline_.generate(requests, events_.observer(), on_image, store_.get(),
                       job_.checkpoint_every > 0 ? &latents : nullptr);
    progress_.chunk_finished();
    events_.release_memory();
  }

  nlohmann::json done_line(const BatchItem& item) const {
    auto line = journal_line("done", item.output);
    line["settings"] = item.settings;
    line["bytes"] = fs::file_size(folder_ / item.output);
    for (const auto& [key, value] : item.settings_json.items()) {
      if (key != "version") line[key] = value;
    }
    line["seed"] = item.metadata.seed;
    return line;
  }

  void finish(const BatchItem& item, const Image& image) {
    const auto path = folder_ / item.output;
    if (path.has_parent_path()) make_folder(path.parent_path());
    write_picture(path.string(), item.metadata, image);
    const auto seconds = events_.picture(item.index, item.entry, path.string(), item.metadata.seed);
    auto line = done_line(item);
    line["seconds"] = seconds;
    journal_.append(line);
    journal_.release(item.output);
    ++made_;
    progress_.picture_finished(item.output, seconds);
    if (on_item_) on_item_(item, true);
    if (!answers_on_stdout()) return;
    auto answer = answer_of(item);
    answer["seconds"] = seconds;
    print_json_line(answer);
  }

  void fail(const BatchItem& item, const std::exception& error) {
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
    if (answers_on_stdout()) print_json_line(error_answer(item, placed));
    if (!job_.keep_going) throw placed;
  }

  static Json answer_head(const BatchItem& item) {
    Json answer = {{"index", item.index}};
    if (item.line > 0) answer["line"] = item.line;
    return answer;
  }

  Json answer_of(const BatchItem& item) const {
    const auto& metadata = item.metadata;
    Json answer = answer_head(item);
    answer["output"] = (folder_ / item.output).string();
    answer["prompt"] = metadata.prompt;
    answer["seed"] = metadata.seed;
    answer["width"] = metadata.width;
    answer["height"] = metadata.height;
    answer["steps"] = metadata.num_inference_steps;
    if (metadata.guidance_scale) answer["guidance"] = *metadata.guidance_scale;
    for (const auto& lora : metadata.loras) {
      answer["loras"].push_back({{"path", lora.path}, {"strength", lora.strength}});
    }
    return answer;
  }

  static Json error_answer(const BatchItem& item, const Error& error) {
    Json answer = answer_head(item);
    answer["error"] = error.what();
    answer["exit_code"] = error.exit_code();
    return answer;
  }

  const BatchJob& job_;
  Pipeline& pipeline_;
  Console& console_;
  fs::path folder_;
  Journal journal_;
  BatchProgress progress_;
  RunEvents events_;
  std::unique_ptr<PromptEmbedsStore> store_;
  std::function<void(const BatchItem& item, bool done)> on_item_;
  std::set<fs::path> cleaned_;
  std::size_t first_open_ = 0;  // of shared items: those before it are done
  std::int64_t made_ = 0;
  std::int64_t skipped_ = 0;
  std::int64_t failures_ = 0;
};

// The entries of the prompt file, or of the file of embeddings.
std::vector<std::pair<PromptEntry, std::string>> read_entries(const CommandLine& line,
                                                              const BatchJob& job) {
  std::vector<std::pair<PromptEntry, std::string>> entries;
  if (job.source.empty()) {
    if (line.typed.max_sequence_length) {
      throw Error(ErrorKind::kUsage,
                  "--max-sequence-length with --prompt-embeds: the file says it for each prompt");
    }
    const auto file = job.defaults.prompt_embeds.string();
    std::int64_t number = 0;
    for (const auto& prompt : embedded_prompts(file)) {
      PromptEntry entry;
      entry.prompt = prompt.prompt;
      entry.options["max-sequence-length"] = fmt::format("{}", prompt.max_sequence_length);
      entries.emplace_back(std::move(entry), fmt::format("{}, prompt {}", file, ++number));
    }
    return entries;
  }
  for (auto& entry : read_prompt_file(job.source)) {
    const auto place = fmt::format("{}:{}", job.source, entry.line);
    entries.emplace_back(std::move(entry), place);
  }
  if (entries.empty()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: holds no prompts", job.source));
  }
  return entries;
}

// Each size once: what does not fit is said before hours of work.
void check_fit(const std::vector<BatchItem>& items, const GenerateJob& job,
               const Pipeline& pipeline) {
  std::set<std::array<std::int64_t, 4>> seen;
  for (const auto& item : items) {
    const auto& r = item.request;
    if (!seen.insert({r.width, r.height, r.num_inference_steps, r.max_sequence_length}).second) {
      continue;
    }
    const auto plan = pipeline.plan({&r, 1});
    if (plan.fits) continue;
    const auto remedies =
        find_remedies(job.model, plan.workload, plan.budget, plan_options(job.pipeline));
    throw Error(ErrorKind::kDoesNotFit,
                fmt::format("{}: {}", item.place, does_not_fit_text(plan, remedies)));
  }
}

void throw_if_failures(const Batch& batch, const BatchJob& job) {
  if (batch.failures() == 0) return;
  const auto text = fmt::format("{} of the prompts failed; the others are done", batch.failures());
  throw Error(job.keep_going ? ErrorKind::kPartial : ErrorKind::kBadInput, text);
}

void run_file(const CommandLine& line, const BatchJob& job, Pipeline& pipeline, Console& console,
              const std::optional<Rendezvous>& rendezvous) {
  // Without the batch first: a bad line must not leave a folder and a journal behind.
  const auto entries = read_entries(line, job);
  std::vector<BatchItem> items;
  BatchItems maker(line, job, pipeline, model_hash_of(job.defaults));
  for (const auto& [entry, place] : entries) {
    for (auto& item : maker.add(entry, place)) items.push_back(std::move(item));
  }
  if (!job.keep_going) check_fit(items, job.defaults, pipeline);
  Batch batch(job, pipeline, console, static_cast<std::int64_t>(items.size()));
  std::int64_t done = 0;
  batch.check_overviews(items);
  for (const auto& item : items) {
    done += batch.check(item) ? 1 : 0;
  }
  batch.events().started(static_cast<std::int64_t>(items.size()), done);
  try {
    if (rendezvous) {
      nlohmann::json all = nlohmann::json::array();
      for (const auto& item : items) all.push_back({item.output, item.settings});
      WorkShare::Options options;
      options.interrupted = [] {
        throw_if_interrupted();
        return false;
      };
      options.notice = [&console](const std::string& text) { console.info(text); };
      WorkShare share(*rendezvous, static_cast<std::int64_t>(items.size()), settings_key(all),
                      options);
      if (rendezvous->rank >= 0) batch.events().add_rank(rendezvous->rank);
      batch.make_shared(items, share);
    } else {
      batch.make(items);
    }
    batch.write_overviews(items);
    throw_if_failures(batch, job);
  } catch (const std::exception& error) {
    batch.events().finished(batch.made(), batch.skipped(), batch.failures(), error);
    throw;
  }
  batch.events().finished(batch.made(), batch.skipped(), batch.failures());
  console.info(fmt::format("{} made, {} were there already, in {}", batch.made(), batch.skipped(),
                           job.defaults.output));
}

// One line, or all that wait already.
std::vector<LineReader::Line> next_lines(LineReader& reader, std::size_t most) {
  std::vector<LineReader::Line> lines;
  while (lines.size() < most && (lines.empty() || reader.ready())) {
    auto line = reader.next();
    if (!line) break;
    lines.push_back(std::move(*line));
  }
  return lines;
}

void run_stream(const CommandLine& line, const BatchJob& job, Pipeline& pipeline,
                Console& console) {
  Batch batch(job, pipeline, console, std::nullopt);
  batch.events().started(0, 0);
  BatchItems maker(line, job, pipeline, model_hash_of(job.defaults));
  LineReader reader(STDIN_FILENO, kLongestPromptLine, [] { return pending_signal() != 0; });
  const auto most = job.prompt_by_prompt ? 1 : job.defaults.chunk_size;
  std::vector<BatchItem> all;
  const bool keep_items = !job.contact_sheet.empty() || !job.gallery.empty();
  const auto keep = [&](const std::vector<BatchItem>& items) {
    if (keep_items) all.insert(all.end(), items.begin(), items.end());
  };
  try {
    while (true) {
      const auto lines = next_lines(reader, most);
      throw_if_interrupted();
      if (lines.empty()) break;
      std::vector<BatchItem> items;
      for (const auto& text : lines) {
        try {
          if (text.too_long) {
            throw Error(ErrorKind::kBadInput,
                        fmt::format("line {}: has {} bytes, more than {}", text.number, text.length,
                                    kLongestPromptLine));
          }
          const auto entry = parse_prompt_line(text.text, text.number);
          if (!entry) continue;
          auto own = maker.add(*entry, fmt::format("line {}", text.number));
          for (const auto& item : own) batch.check(item);
          std::move(own.begin(), own.end(), std::back_inserter(items));
        } catch (const Error& error) {
          // Answers come in the order of the lines.
          keep(items);
          batch.make(std::exchange(items, {}));
          batch.answer_error(text.number, error);
        }
      }
      keep(items);
      batch.make(std::move(items));
    }
    batch.check_overviews(all);
    batch.write_overviews(all);
    throw_if_failures(batch, job);
  } catch (const std::exception& error) {
    batch.events().finished(batch.made(), batch.skipped(), batch.failures(), error);
    throw;
  }
  batch.events().finished(batch.made(), batch.skipped(), batch.failures());
}

// Processes of this job on this machine, which share its cores and its memory.
int processes_here() {
  for (const char* name : {"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                           "SLURM_NTASKS_PER_NODE"}) {
    const char* text = std::getenv(name);
    const int count = text == nullptr ? 0 : std::atoi(text);
    if (count > 0) return count;
  }
  return 1;
}

}  // namespace

void run_batch(const CommandLine& line) {
  BatchJob job = make_batch_job(line);
  Console console(job.defaults.verbosity);
  for (const std::string& warning : job.defaults.warnings) console.warning(warning);
  const bool is_stream = job.source == "-";
  const auto rendezvous = find_rendezvous(
      [](const char* name) -> const char* { return std::getenv(name); }, job.rendezvous);
  if (rendezvous && is_stream) {
    throw Error(ErrorKind::kUsage, "prompts from standard input cannot be shared: use a file");
  }
  if (rendezvous) {
    job.defaults.pipeline.local_rank =
        static_cast<int>(std::max<std::int64_t>(rendezvous->local_rank, 0));
    job.defaults.pipeline.processes_here = processes_here();
  }
  Pipeline pipeline(job.defaults.pipeline);
  if (is_stream) {
    run_stream(line, job, pipeline, console);
  } else {
    run_file(line, job, pipeline, console, rendezvous);
  }
}

}  // namespace steadyflux::cli
