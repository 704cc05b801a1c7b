#include "cli/option_values.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <random>
#include <system_error>

#include "base/bytes.h"
#include "base/utf8.h"
#include "cli/parse_number.h"
#include "image/read_picture.h"
#include "lora/lora_spec.h"
#include "memory/largest_size.h"
#include "memory/memory_report.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {

namespace fs = std::filesystem;

void usage_error(const std::string& message) { throw Error(ErrorKind::kUsage, message); }

std::int64_t parse_in_range(const char* name, const std::string& text, std::int64_t lowest,
                            std::int64_t highest) {
  const auto value = parse_number<std::int64_t>(text);
  if (!value || *value < lowest || *value > highest) {
    usage_error(fmt::format("--{} {}: expected a whole number from {} to {}", name, printable(text),
                            lowest, highest));
  }
  return *value;
}

std::int64_t parse_side(const char* name, const std::string& text) {
  const std::int64_t side = parse_in_range(name, text, 1, kMostSide);
  if (side % 16 == 0) return side;
  if (side < 16)
    usage_error(fmt::format("{} {} is not a multiple of 16: use 16 or 32", name, side));
  const std::int64_t below = side / 16 * 16;
  usage_error(
      fmt::format("{} {} is not a multiple of 16: use {} or {}", name, side, below, below + 16));
}

double parse_scale(const char* name, const std::string& text) {
  const auto value = parse_number<double>(text);
  if (!value || !std::isfinite(*value) || *value < 0) {
    usage_error(fmt::format("--{} {}: expected a number, 0 or more", name, printable(text)));
  }
  return *value;
}

std::uint64_t parse_seed(const std::string& text) {
  if (text == "-1") return std::random_device{}();  // 32 bits: short enough to type again
  const auto value = parse_number<std::uint64_t>(text);
  if (!value) {
    usage_error(
        fmt::format("--seed {}: expected a whole number from 0 to {}, or -1 for a random "
                    "one",
                    printable(text), std::numeric_limits<std::uint64_t>::max()));
  }
  return *value;
}

void check_one_of(const char* name, const std::string& text,
                  std::initializer_list<const char*> accepted) {
  for (const char* word : accepted) {
    if (text == word) return;
  }
  usage_error(
      fmt::format("--{} {}: expected {}", name, printable(text), fmt::join(accepted, ", ")));
}

void check_device(const std::string& text) {
  if (text.rfind("cuda:", 0) == 0 && parse_number<std::uint8_t>(text.substr(5))) return;
  check_one_of("device", text, {"auto", "cpu", "cuda", "cuda:N"});
  if (text == "cuda:N") usage_error("--device cuda:N: N is the number of a GPU, such as cuda:0");
}

constexpr std::int64_t kLeastLimit = std::int64_t{1} << 20;  // less is a forgotten unit

std::int64_t parse_limit(const char* name, const std::string& text) {
  std::int64_t bytes = 0;
  try {
    bytes = parse_bytes(text);
  } catch (const Error& error) {
    usage_error(fmt::format("--{}: {}", name, error.what()));
  }
  if (bytes < kLeastLimit) {
    usage_error(fmt::format("--{} {}: is {}, expected 1MiB or more; write for example 6GiB", name,
                            printable(text), format_bytes(bytes)));
  }
  return bytes;
}

fs::path parse_report(const std::string& text) {
  const fs::path path = text;
  try {
    memory_report_format(path);
  } catch (const Error& error) {
    usage_error(fmt::format("--memory-report {}", error.what()));
  }
  return path;
}

double parse_positive(const char* name, const std::string& text) {
  const auto value = parse_number<double>(text);
  if (!value || !std::isfinite(*value) || *value <= 0) {
    usage_error(fmt::format("--{} {}: expected a number above 0", name, printable(text)));
  }
  return *value;
}

double parse_strength(const std::string& text) {
  const auto value = parse_number<double>(text);
  if (!value || !(*value > 0 && *value <= 1)) {
    usage_error(fmt::format("--strength {}: expected a number above 0, up to 1", printable(text)));
  }
  return *value;
}

fs::path checked_lora(const fs::path& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return path;
  throw Error(ErrorKind::kBadInput,
              fmt::format("LoRA {}: {}", printable(path.string(), 200),
                          fs::exists(path, error) ? "is no file" : "no such file"));
}

namespace {

// each(line) for every line; none of an empty text.
template <typename Each>
void for_lines(const std::string& text, Each each) {
  std::size_t begin = 0;
  while (begin < text.size()) {
    const auto end = std::min(text.find('\n', begin), text.size());
    each(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

}  // namespace

std::vector<LoraUse> parse_loras(const std::string& text) {
  std::vector<LoraUse> loras;
  for_lines(text, [&](const std::string& line) {
    const auto spec = parse_lora_spec(line);
    loras.push_back({checked_lora(spec.path), spec.scale});
  });
  return loras;
}

std::vector<ReduxImage> parse_redux_images(const std::string& text) {
  std::vector<ReduxImage> images;
  for_lines(text, [&](const std::string& line) {
    const auto spec = parse_scaled_file(line, "--redux-image", "photo.jpg:0.7");
    images.push_back(make_redux_image(spec.path, spec.scale));
  });
  return images;
}

ReduxImage make_redux_image(const fs::path& path, double scale) {
  return {path, scale, [path] { return read_picture(path); },
          read_picture_size(path).reading_bytes()};
}

}  // namespace steadyflux::cli
