// How far a batch is: on a terminal one line with the bar of the phase and the time until the last
// picture, elsewhere a line for every picture. Chunks of pictures go through the phases together,
// so pictures finish in bursts; the time left is therefore taken from the phases, as soon as one
// chunk has told how long each of them takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/plan_text.h"
#include "cli/progress_bar.h"
#include "memory/timeline.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

class BatchProgress : public Observer {
 public:
  // `total`: pictures in all, those that are there already as well; nothing for a stream, whose
  // length nobody knows. `title` is for the plans that --verbose shows.
  BatchProgress(Console& console, PlanTitle title, std::optional<std::int64_t> total,
                std::function<double()> now = steady_seconds);

  // Around each run of the pipeline: so many pictures go into it.
  void chunk_started(std::int64_t pictures);
  void chunk_finished();
  // Pictures that need not be made, at any time. They count, but say nothing of the speed.
  void pictures_skipped(std::int64_t count);
  // `seconds`: what to say of this picture; the ETA takes its own measure.
  void picture_finished(const std::string& name, double seconds,
                        const std::optional<PassCounts>& passes = {});
  void picture_failed(const std::string& name, const std::string& message);

  void planned(const Plan& plan) override;
  void stage_started(const StageInfo& stage) override { stage_ = stage; }
  void memory_seen(const MemoryTimeline& timeline) override { timeline_ = timeline; }
  void phase_started(const std::string& name, std::int64_t total_steps) override;
  void phase_progress(std::int64_t steps_done) override;
  void phase_finished(const PhaseStats& stats) override;
  void passes_made(std::size_t request, std::int64_t index, const PassCounts& passes) override {
    passes_.add(request, index, passes);
  }
  void warning(const std::string& message) override { console_.warning(message); }
  int interrupt_signal() override;

  PassTally& passes() { return passes_; }

  // Finished, failed and skipped ones.
  std::int64_t pictures_handled() const { return handled_; }
  // Until the last picture; nothing as long as that is not known.
  std::optional<double> remaining() const;
  std::string status_text(std::size_t columns) const;

  // Of all chunks: seconds and counts summed, the largest peaks.
  const std::vector<PhaseStats>& phases() const { return phases_; }
  // How memory was used in the last chunk.
  const std::optional<MemoryTimeline>& timeline() const { return timeline_; }

 private:
  struct Pace {
    double seconds = 0;
    std::int64_t pictures = 0;
    double of(std::int64_t count) const {
      return seconds / static_cast<double>(pictures) * static_cast<double>(count);
    }
  };
  std::optional<double> chunk_remaining() const;
  std::string count_text() const;
  void show_status();

  Console& console_;
  PlanTitle title_;
  std::optional<std::int64_t> total_;
  std::function<double()> now_;
  PhaseClock clock_;
  RateLimit rate_;
  std::optional<StageInfo> stage_;
  std::string last_plan_;

  std::int64_t handled_ = 0;
  std::int64_t in_chunk_ = 0;  // pictures of the present chunk; 0: there is none
  std::int64_t handled_in_chunk_ = 0;
  double chunk_start_ = 0;
  bool in_phase_ = false;
  std::map<std::string, double> chunk_phases_;  // seconds of those that the chunk is through with
  Pace pace_;                                   // of whole chunks
  std::map<std::string, Pace> phase_paces_;
  std::vector<PhaseStats> phases_;
  PassTally passes_;  // of the present chunk
  std::optional<MemoryTimeline> timeline_;
};

}  // namespace steadyflux::cli
