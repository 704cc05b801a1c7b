#include "cli/embeds_store.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "base/utf8.h"
#include "checkpoints/open_model.h"
#include "cli/encoder_loras.h"
#include "embeddings/embeds_cache.h"
#include "embeddings/kept_identity.h"
#include "embeddings/prompt_embeds_file.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

class CacheStore : public PromptEmbedsStore {
 public:
  CacheStore(const GenerateJob& job, const std::string& device, Console& console)
      : cache_(cache_folder(), cache_size_limit()), console_(console) {
    encoder_ = kept_identity(encoder_files(job.model), cache_.folder());
    // Embeddings of another kind of device differ in their last bits.
    computed_by_ = device.substr(0, device.find(':'));
  }

  std::optional<StoredEmbeds> find(const std::string& prompt, const std::string& prompt_2,
                                   std::int64_t max_sequence_length,
                                   const std::string& dtype) override {
    if (changed_by_loras_) return std::nullopt;
    auto found = cache_.find(key(prompt, prompt_2, max_sequence_length, dtype));
    warn();
    return found;
  }

  void put(const StoredEmbeds& embeds) override {
    if (changed_by_loras_) return;
    cache_.put(key(embeds.prompt, embeds.prompt_2, embeds.max_sequence_length, embeds.dtype),
               embeds);
    warn();
  }

  // What it holds is of the encoders alone.
  void use_loras(const std::vector<LoraUse>&, bool change_embeds) override {
    changed_by_loras_ = change_embeds;
  }

 private:
  EmbedsKey key(const std::string& prompt, const std::string& prompt_2,
                std::int64_t max_sequence_length, const std::string& dtype) const {
    return {prompt, encoder_, max_sequence_length, dtype, computed_by_, prompt_2};
  }
  void warn() {
    const auto warning = cache_.take_warning();
    if (!warning.empty()) console_.warning(warning);
  }

  EmbedsCache cache_;
  Console& console_;
  std::string encoder_;
  std::string computed_by_;
  bool changed_by_loras_ = false;
};

// Files from elsewhere do not tell their prompts; several of them get names.
std::string name_of(const PromptEmbedsFile& file, std::size_t i,
                    const std::filesystem::path& path) {
  const bool tells = file.metadata().contains(fmt::format("prompt.{}", i));
  if (tells || file.size() == 1) return file.info(i).prompt;
  return fmt::format("{}, prompt {}", path.filename().string(), i + 1);
}

class FileStore : public PromptEmbedsStore {
 public:
  FileStore(const GenerateJob& job, Console& console)
      : path_(job.prompt_embeds), file_(job.prompt_embeds), console_(console) {
    for (std::size_t i = 0; i < file_.size(); ++i) {
      const auto& info = file_.info(i);
      places_.try_emplace({name_of(file_, i, path_), info.prompt_2, info.max_sequence_length}, i);
    }
    compare_encoders(job);
  }

  // What the user gave counts, whatever LoRAs would make of the prompt.
  void use_loras(const std::vector<LoraUse>& loras, bool) override {
    loras_ = encoder_loras(loras, cache_folder());
  }

  std::optional<StoredEmbeds> find(const std::string& prompt, const std::string& prompt_2,
                                   std::int64_t max_sequence_length, const std::string&) override {
    const auto place = places_.find({prompt, prompt_2, max_sequence_length});
    if (place == places_.end()) {
      const auto t5 =
          prompt_2.empty() ? "" : fmt::format(" and \"{}\" for T5", printable(prompt_2, 60));
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: holds no embeddings of the prompt \"{}\"{} with {} tokens",
                              path_.string(), printable(prompt, 60), t5, max_sequence_length));
    }
    compare_loras(file_.info(place->second).loras);
    return file_.load(place->second);
  }

  void put(const StoredEmbeds&) override {}

 private:
  void compare_encoders(const GenerateJob& job) const {
    std::string own;
    try {
      own = kept_identity(encoder_files(job.model), cache_folder());
    } catch (const Error&) {
      return;  // this machine has no encoders, which is what such files are for
    }
    for (std::size_t i = 0; i < file_.size(); ++i) {
      const auto& theirs = file_.info(i).encoder;
      if (theirs.empty() || theirs == own) continue;
      console_.warning(fmt::format("{}: was encoded by other text encoders than those of {}",
                                   path_.string(), job.model.name));
      return;
    }
  }

  // Said once, and only of files that record it.
  void compare_loras(const std::string& theirs) {
    if (warned_of_loras_ || theirs.empty() || theirs == loras_) return;
    warned_of_loras_ = true;
    console_.warning(fmt::format(
        "{}: was encoded with other LoRAs on the text encoders than those asked for; encode the "
        "prompts again with the same --lora",
        path_.string()));
  }

  std::filesystem::path path_;
  PromptEmbedsFile file_;
  Console& console_;
  std::string loras_ = "none";
  bool warned_of_loras_ = false;
  // Prompt, what T5 read, tokens.
  std::map<std::tuple<std::string, std::string, std::int64_t>, std::size_t> places_;
};

}  // namespace

std::unique_ptr<PromptEmbedsStore> open_embeds_store(const GenerateJob& job,
                                                     const Pipeline& pipeline, Console& console) {
  if (!job.prompt_embeds.empty()) return std::make_unique<FileStore>(job, console);
  if (!job.use_cache) return nullptr;
  return std::make_unique<CacheStore>(job, pipeline.device_name(), console);
}

std::vector<EmbeddedPrompt> embedded_prompts(const std::filesystem::path& path) {
  const PromptEmbedsFile file(path);
  std::vector<EmbeddedPrompt> prompts;
  for (std::size_t i = 0; i < file.size(); ++i) {
    const auto& info = file.info(i);
    if (info.negative) continue;
    prompts.push_back({name_of(file, i, path), info.prompt_2, info.max_sequence_length});
  }
  return prompts;
}

}  // namespace steadyflux::cli
