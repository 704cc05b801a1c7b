// The pictures of a batch: what is there is passed over, the rest is made chunk by chunk. The
// journal says what is finished, so that the same command goes on where it was stopped; locks and
// `WorkShare` say what other processes are at.
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "batch/journal.h"
#include "batch/output_state.h"
#include "cli/batch_items.h"
#include "cli/batch_progress.h"
#include "cli/console.h"
#include "cli/embeds_store.h"
#include "cli/run_events.h"
#include "sharing/work_share.h"

namespace steadyflux::cli {

// One run of a batch. Throws Error as pictures fail, unless the job says to keep going.
class Batch {
 public:
  Batch(const BatchJob& job, Pipeline& pipeline, Console& console,
        std::optional<std::int64_t> total);

  RunEvents& events() { return events_; }
  std::int64_t failures() const { return failures_; }
  bool answers_on_stdout() const { return job_.defaults.json || job_.source == "-"; }

  // True if the picture is done. Removes what a killed run left beside it, and throws if something
  // else has its name.
  bool check(const BatchItem& item);

  bool is_done(const BatchItem& item) const { return state_of(item) == OutputState::kDone; }

  // Makes those of the items that are not there, chunk by chunk. What another process is at is
  // waited for.
  void make(std::vector<BatchItem> items);

  // The items that `share` hands to this process, until all are done by someone.
  void make_shared(const std::vector<BatchItem>& items, WorkShare& share);

  // A line of the stream that is no prompt.
  void answer_error(std::int64_t line, const std::exception& error);

  std::int64_t made() const { return made_; }
  std::int64_t skipped() const { return skipped_; }

 private:
  static Journal open_journal(const std::filesystem::path& folder);
  // Of what killed runs left, once for each folder.
  void clean(const std::filesystem::path& folder);
  OutputState state_of(const BatchItem& item) const;
  void skip(const BatchItem& item);
  bool is_journaled(const BatchItem& item) const;

  // Of an item that is done and this process's: a kill may have come before its line.
  void skip_for_good(const BatchItem& item);

  // How many of the first requests go into one chunk.
  std::size_t chunk_size(const std::vector<Request>& requests) const;

  // Takes out of `pending` what no other process is at, and what is done on the way there.
  std::vector<BatchItem> claim_chunk(std::deque<BatchItem>& pending);
  std::vector<std::int64_t> take(const std::vector<BatchItem>& items, WorkShare& share);

  // One after the other if together they fail, so that one does not take the others with it.
  void make_chunk(std::vector<BatchItem> chunk);
  void run_pipeline(const std::vector<BatchItem>& chunk, std::vector<bool>& done);
  nlohmann::json done_line(const BatchItem& item) const;
  void finish(const BatchItem& item, const Image& image, const std::optional<PassCounts>& passes);
  void fail(const BatchItem& item, const std::exception& error);

  const BatchJob& job_;
  Pipeline& pipeline_;
  Console& console_;
  std::filesystem::path folder_;
  Journal journal_;
  BatchProgress progress_;
  RunEvents events_;
  std::unique_ptr<PromptEmbedsStore> store_;
  std::function<void(const BatchItem& item, bool done)> on_item_;
  std::set<std::filesystem::path> cleaned_;
  std::size_t first_open_ = 0;  // of shared items: those before it are done
  std::int64_t made_ = 0;
  std::int64_t skipped_ = 0;
  std::int64_t failures_ = 0;
};

}  // namespace steadyflux::cli
