#include "cli/batch_answers.h"

#include "cli/picture_output.h"

namespace steadyflux::cli {

namespace fs = std::filesystem;

namespace {

Json answer_head(const BatchItem& item) {
  Json answer = {{"index", item.index}};
  if (item.line > 0) answer["line"] = item.line;
  return answer;
}

}  // namespace

Json batch_answer(const BatchItem& item, const fs::path& folder) {
  const auto& metadata = item.metadata;
  Json answer = answer_head(item);
  answer["output"] = (folder / item.output).string();
  answer["prompt"] = metadata.prompt;
  answer["seed"] = metadata.seed;
  answer["width"] = metadata.width;
  answer["height"] = metadata.height;
  answer["steps"] = metadata.num_inference_steps;
  if (metadata.guidance_scale) answer["guidance"] = *metadata.guidance_scale;
  add_inputs(answer, metadata);
  return answer;
}

Json batch_error_answer(const BatchItem& item, const Error& error) {
  Json answer = answer_head(item);
  answer["error"] = error.what();
  answer["exit_code"] = error.exit_code();
  return answer;
}

}  // namespace steadyflux::cli
