#include "pipeline/staged_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <map>
#include <tuple>
#include <utility>

#include "embeddings/prompt_embeds_file.h"
#include "memory/plan.h"
#include "pipeline/chunk.h"
#include "pipeline/out_of_memory.h"
#include "pipeline/stages.h"

namespace steadyflux {
namespace {

// Keeps embeddings from one stage to the next, also where nothing else does. All stages have the
// same LoRAs.
class KeptEmbeds : public PromptEmbedsStore {
 public:
  explicit KeptEmbeds(PromptEmbedsStore* next) : next_(next) {}

  std::optional<StoredEmbeds> find(const std::string& prompt, const std::string& prompt_2,
                                   std::int64_t max_sequence_length,
                                   const std::string& dtype) override {
    const auto known = kept_.find({prompt, prompt_2, max_sequence_length, dtype});
    if (known != kept_.end()) return known->second;
    return next_ == nullptr ? std::nullopt
                            : next_->find(prompt, prompt_2, max_sequence_length, dtype);
  }
  void put(const StoredEmbeds& embeds) override {
    kept_.insert_or_assign(
        {embeds.prompt, embeds.prompt_2, embeds.max_sequence_length, embeds.dtype}, embeds);
    if (next_ != nullptr) next_->put(embeds);
  }
  void use_loras(const std::vector<LoraUse>& loras, bool change_embeds) override {
    if (next_ != nullptr) next_->use_loras(loras, change_embeds);
  }

 private:
  PromptEmbedsStore* next_;
  // Of prompt, what T5 reads in its place, tokens, dtype.
  std::map<std::tuple<std::string, std::string, std::int64_t, std::string>, StoredEmbeds> kept_;
};

// A picture on its way, and which one it is to those outside.
struct Picture {
  std::size_t request = 0;
  std::int64_t index = 0;
  std::shared_ptr<const Image> image = nullptr;  // of the last stage that it has been through
};

// Requests of a stage are pictures to those outside.
class StageLatents : public LatentsStore {
 public:
  StageLatents(LatentsStore& next, const std::vector<Picture>& pictures)
      : next_(next), pictures_(pictures) {}
  std::int64_t every() const override { return next_.every(); }
  std::optional<SavedLatents> find(std::size_t request, std::int64_t) override {
    return next_.find(pictures_[request].request, pictures_[request].index);
  }
  void put(std::size_t request, std::int64_t, const SavedLatents& latents) override {
    next_.put(pictures_[request].request, pictures_[request].index, latents);
  }

 private:
  LatentsStore& next_;
  const std::vector<Picture>& pictures_;
};

// Likewise for what is told of them.
class StageObserver : public Observer {
 public:
  StageObserver(Observer& next, const std::vector<Picture>& pictures)
      : next_(next), pictures_(pictures) {}
  void planned(const Plan& plan) override { next_.planned(plan); }
  void memory_seen(const MemoryTimeline& timeline) override { next_.memory_seen(timeline); }
  void stage_started(const StageInfo& stage) override { next_.stage_started(stage); }
  void phase_started(const std::string& name, std::int64_t total_steps) override {
    next_.phase_started(name, total_steps);
  }
  void phase_progress(std::int64_t steps_done) override { next_.phase_progress(steps_done); }
  void phase_finished(const PhaseStats& stats) override { next_.phase_finished(stats); }
  void passes_made(std::size_t request, std::int64_t, const PassCounts& passes) override {
    next_.passes_made(pictures_[request].request, pictures_[request].index, passes);
  }
  void warning(const std::string& message) override { next_.warning(message); }
  int interrupt_signal() override { return next_.interrupt_signal(); }

 private:
  Observer& next_;
  const std::vector<Picture>& pictures_;
};

class StagedRun {
 public:
  StagedRun(Pipeline& pipeline, std::int64_t multiple, std::span<const Request> requests,
            Observer& observer, const OnImage& on_image, PromptEmbedsStore* embeds,
            LatentsStore* latents)
      : pipeline_(pipeline),
        observer_(observer),
        on_image_(on_image),
        embeds_(embeds),
        latents_(latents) {
    for (std::size_t i = 0; i < requests.size(); ++i) {
      sizes_.push_back(stage_sizes(requests[i], multiple));
      for (std::int64_t index = 0; index < requests[i].num_images; ++index) {
        pictures_.push_back({i, index});
        requests_.push_back(requests[i]);
        requests_.back().num_images = 1;
        requests_.back().seed += static_cast<std::uint64_t>(index);
      }
    }
  }

  void run() {
    const auto count = sizes_.front().size();
    for (std::size_t stage = 0; stage < count; ++stage) {
      auto requests = requests_of(stage);
      const bool fits = stage == 0 || fit(requests);
      if (!fits || !make(stage, requests)) {
        give_up();
        return;
      }
    }
  }

 private:
  std::vector<Request> requests_of(std::size_t stage) const {
    std::vector<Request> requests;
    for (std::size_t i = 0; i < pictures_.size(); ++i) {
      requests.push_back(
          stage_request(requests_[i], sizes_[pictures_[i].request][stage], pictures_[i].image));
    }
    return requests;
  }

  // Makes the requests smaller if they have to be. False if that leaves too little.
  bool fit(std::vector<Request>& requests) const {
    if (pipeline_.plan(requests).fits) return true;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      auto& request = requests[i];
      const auto before = pictures_[i].image;
      PictureSides size;
      try {
        const auto largest = pipeline_.with_largest_size(request, {request.width, request.height});
        size = {largest.width, largest.height};
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kDoesNotFit) throw;
        return false;
      }
      const double growth = static_cast<double>(std::max(size.width, size.height)) /
                            static_cast<double>(std::max(before->width, before->height));
      if (growth < kLeastGrowth) return false;
      if (size.width >= request.width) continue;  // alone it fits
      request = stage_request(requests_[i], size, before);
    }
    return true;
  }

  // False if memory does not suffice; pictures that were finished all the same have been given.
  bool make(std::size_t stage, const std::vector<Request>& requests) {
    const bool is_last = stage + 1 == sizes_.front().size();
    const auto& first = requests.front();
    observer_.stage_started({.number = static_cast<std::int64_t>(stage) + 1,
                             .count = static_cast<std::int64_t>(sizes_.front().size()),
                             .width = first.width,
                             .height = first.height,
                             .steps = first.num_inference_steps - skipped_steps(first)});
    const auto take = [&](std::size_t i, std::int64_t, Image image) {
      if (is_last) return give(i, std::move(image));
      pictures_[i].image = std::make_shared<const Image>(std::move(image));
    };
    std::optional<StageLatents> latents;
    if (latents_ != nullptr) latents.emplace(*latents_, pictures_);
    StageObserver observer(observer_, pictures_);
    try {
      pipeline_.generate(requests, observer, take, &embeds_, latents ? &*latents : nullptr);
    } catch (const std::exception& error) {
      if (stage == 0 || !is_short_of_memory(error)) throw;
      return false;
    }
    return true;
  }

  static bool is_short_of_memory(const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    return known != nullptr ? known->kind() == ErrorKind::kDoesNotFit
                            : out_of_memory_detail(error).has_value();
  }

  void give(std::size_t i, Image image) {
    pictures_[i].image.reset();
    given_ = i + 1;  // they come in their order
    on_image_(pictures_[i].request, pictures_[i].index, std::move(image));
  }

  void give_up() {
    for (auto i = given_; i < pictures_.size(); ++i) {
      const auto image = pictures_[i].image;
      const auto& request = requests_[i];
      observer_.warning(
          fmt::format("memory does not suffice for {} x {}: the picture stays at {} x {}",
                      request.width, request.height, image->width, image->height));
      give(i, *image);
    }
  }

  Pipeline& pipeline_;
  Observer& observer_;
  const OnImage& on_image_;
  KeptEmbeds embeds_;
  LatentsStore* latents_;
  std::vector<std::vector<PictureSides>> sizes_;  // of each request
  std::vector<Picture> pictures_;
  std::vector<Request> requests_;  // one for each picture
  std::size_t given_ = 0;
};

}  // namespace

void generate_in_stages(Pipeline& pipeline, std::int64_t multiple,
                        std::span<const Request> requests, Observer& observer,
                        const OnImage& on_image, PromptEmbedsStore* embeds, LatentsStore* latents) {
  StagedRun(pipeline, multiple, requests, observer, on_image, embeds, latents).run();
}

}  // namespace steadyflux
