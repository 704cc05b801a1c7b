#include "cli/inspect_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/bytes.h"
#include "base/utf8.h"
#include "quantization/dtype.h"

namespace steadyflux::cli {
namespace {

constexpr std::size_t kLongText = 200;
constexpr std::size_t kShortList = 8;

std::string text_of(const Json& value) {
  return printable(value.is_string() ? value.get<std::string>() : value.dump(), kLongText);
}

// "11.90 G", "4.57 M"
std::string count_text(std::int64_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e9) return fmt::format("{:.2f} G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.2f} M", value / 1e6);
  return fmt::format("{}", count);
}

std::string summary_line(const Json& summary) {
  return fmt::format(
      "{} parameters, {}, {} tensors", count_text(summary["parameters"].get<std::int64_t>()),
      format_bytes(summary["bytes"].get<std::int64_t>()), summary["tensors"].get<std::int64_t>());
}

std::string dtype_lines(const Json& summary, const std::string& indent) {
  std::vector<std::pair<std::int64_t, std::string>> lines;
  for (const auto& [dtype, of] : summary["dtypes"].items()) {
    const auto bytes = of["bytes"].get<std::int64_t>();
    lines.emplace_back(-bytes, fmt::format("{}{:<10}{}\n", indent, dtype, summary_line(of)));
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const auto& [order, line] : lines) text += line;
  return text;
}

std::string config_line(const Json& config) {
  std::vector<std::string> words;
  for (const auto& [key, value] : config.items()) words.push_back(key + " " + text_of(value));
  return fmt::format("{}", fmt::join(words, ", "));
}

// Names, one a line: all of them or the first few.
std::string names_text(const Json& names, bool verbose) {
  std::string text;
  std::size_t shown = 0;
  for (const Json& name : names) {
    if (!verbose && shown == kShortList) {
      text += fmt::format("  ... {} more (-v shows all)\n", names.size() - shown);
      break;
    }
    text += "  " + text_of(name) + "\n";
    ++shown;
  }
  return text;
}

std::string metadata_text(const Json& metadata) {
  std::string text;
  for (const auto& [key, value] : metadata.items()) {
    std::string shown;
    if (value.is_array() && value.size() > kShortList) {
      std::vector<std::string> first;
      for (std::size_t i = 0; i < kShortList / 2; ++i) first.push_back(text_of(value[i]));
      shown = fmt::format("[{}, ... {} values]", fmt::join(first, ", "), value.size());
    } else {
      shown = text_of(value);
    }
    text += fmt::format("metadata {}: {}\n", printable(key), shown);
  }
  return text;
}

std::string tensors_text(const Json& part) {
  std::string text;
  if (!part.contains("tensor_list")) return text;
  for (const Json& tensor : part["tensor_list"]) {
    text +=
        fmt::format("  {:<9}{} {}\n", tensor["dtype"].get<std::string>(), text_of(tensor["name"]),
                    shape_to_string(tensor["shape"].get<std::vector<std::int64_t>>()));
  }
  return text;
}

std::string lora_text(const Json& lora, bool verbose) {
  auto text = fmt::format("format      {}\n", text_of(lora["format"]));
  std::vector<std::string> words;
  for (const Json& kind : lora["kinds"]) words.push_back(text_of(kind));
  const auto least = lora["min_rank"].get<std::int64_t>();
  const auto most = lora["max_rank"].get<std::int64_t>();
  if (most > 0) {
    words.push_back(least == most ? fmt::format("rank {}", most)
                                  : fmt::format("ranks {} to {}", least, most));
  }
  text += fmt::format("changes     {}\n", fmt::join(words, ", "));
  for (const auto& [component, count] : lora["components"].items()) {
    text += fmt::format("            {} layers of {}\n", count.get<std::int64_t>(), component);
  }
  if (verbose) text += names_text(lora["targets"], true);
  return text;
}

std::string weights_text(const Json& result, bool verbose) {
  std::string text;
  if (result.contains("class") && !result["class"].get<std::string>().empty()) {
    text += text_of(result["class"]) + ": ";
  }
  text += text_of(result["description"]) + "\n";
  text += fmt::format("{:<12}{}\n", result["format"].get<std::string>(), summary_line(result));
  text += dtype_lines(result, "  ");
  if (result.contains("components")) {
    const bool several = result["components"].size() > 1;
    for (const auto& [name, part] : result["components"].items()) {
      if (several) {
        text += fmt::format("{}: {}\n", name, summary_line(part)) + dtype_lines(part, "  ");
      }
      if (!part["config"].is_null()) text += "config      " + config_line(part["config"]) + "\n";
      if (part.contains("problem")) text += "problem     " + text_of(part["problem"]) + "\n";
    }
  }
  if (result.contains("lora")) text += lora_text(result["lora"], verbose);
  if (result.contains("problem")) text += "problem     " + text_of(result["problem"]) + "\n";
  if (result.contains("prompts")) {
    for (const Json& prompt : result["prompts"]) {
      text += fmt::format(
          "  {} T5 tokens, {}{}: {}{}\n", prompt["max_sequence_length"].dump(),
          prompt["dtype"].get<std::string>(), prompt["negative"].get<bool>() ? ", negative" : "",
          text_of(prompt["prompt"]),
          prompt.contains("prompt_2") ? fmt::format(" (T5 read: {})", text_of(prompt["prompt_2"]))
                                      : "");
    }
  }
  if (!result["unmatched"].empty()) {
    text += fmt::format("{} without a place in the model:\n", result["unmatched"].size());
    text += names_text(result["unmatched"], verbose);
  }
  return text + metadata_text(result["metadata"]) + tensors_text(result);
}

std::string components_text(const Json& result) {
  std::string text;
  for (const auto& [name, part] : result["components"].items()) {
    text += fmt::format("{:<16}{}\n", name, text_of(part["class"]));
    if (!part.contains("tensors")) continue;
    text += fmt::format("{:<16}{}\n", "", summary_line(part));
    text += dtype_lines(part, std::string(16, ' ')) + tensors_text(part);
  }
  return text;
}

std::string model_text(const Json& result) {
  const Json& defaults = result["defaults"];
  auto text = fmt::format("{}: FLUX.1 pipeline, {} variant\n", text_of(result["name"]),
                          result["variant"].get<std::string>());
  text += fmt::format("defaults: {} x {}, {} steps, {} T5 tokens\n", defaults["width"].get<int>(),
                      defaults["height"].get<int>(), defaults["steps"].get<int>(),
                      defaults["max_sequence_length"].get<int>());
  return text + components_text(result);
}

std::string redux_text(const Json& result) {
  const auto side = result["image_size"].get<int>();
  auto text = fmt::format("{}: FLUX.1-Redux, for --redux\n", text_of(result["name"]));
  text += fmt::format("a picture of {} x {} becomes {} tokens of {} values\n", side, side,
                      result["tokens"].get<int>(), result["width"].get<int>());
  return text + components_text(result);
}

}  // namespace

std::string inspect_text(const Json& result, bool verbose) {
  const auto kind = result["kind"].get<std::string>();
  if (kind == "model") return model_text(result);
  if (kind == "redux") return redux_text(result);
  if (kind != "picture") return weights_text(result, verbose);
  if (!result.contains("steadyflux")) return result["parameters"].get<std::string>() + "\n";
  std::string text;
  for (const auto& [key, value] : result["steadyflux"].items()) {
    text +=
        fmt::format("{:<22}{}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return text;
}

}  // namespace steadyflux::cli
