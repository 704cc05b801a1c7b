// Any prompt through the tokenizers of the bundled model. The first byte says how many tokens fit.
// Either it is not UTF-8 (kUsage), or there are as many ids as asked for, all of them known to the
// encoder, and what did not fit is text; with T5, whose tokens are places in the prompt, it is the
// end of the prompt.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/utf8.h"
#include "steadyflux/error.h"
#include "tokenizer/clip_tokenizer.h"
#include "tokenizer/t5_tokenizer.h"

namespace {

constexpr std::int64_t kVocabSize = 2048;  // of both text encoders

void require(bool condition) {
  if (!condition) __builtin_trap();
}

std::string lost_text(const steadyflux::Tokenizer& tokenizer, const std::string& prompt,
                      std::int64_t length) {
  steadyflux::TokenizedPrompt result;
  try {
    result = tokenizer.tokenize(prompt, length);
  } catch (const steadyflux::Error& error) {
    require(error.kind() == steadyflux::ErrorKind::kUsage);
    return {};
  }
  require(steadyflux::is_valid_utf8(prompt));
  require(result.ids.size() == static_cast<std::size_t>(length));
  require(result.num_tokens >= 1 && result.num_tokens <= length);
  for (const std::int64_t id : result.ids) require(id >= 0 && id < kVocabSize);
  require(steadyflux::is_valid_utf8(result.lost_text));
  require(result.lost_text.empty() || result.num_tokens == length);
  return result.lost_text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto model = std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "models" / "emoji";
  static const auto clip = steadyflux::load_clip_tokenizer(model / "tokenizer", kVocabSize);
  static const auto t5 = steadyflux::load_t5_tokenizer(model / "tokenizer_2", kVocabSize);
  if (size == 0) return 0;
  const std::string prompt(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::int64_t length = 2 + data[0] % 64;
  lost_text(*clip, prompt, length);
  require(prompt.ends_with(lost_text(*t5, prompt, length)));
  return 0;
}
