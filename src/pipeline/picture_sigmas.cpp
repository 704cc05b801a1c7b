#include "pipeline/picture_sigmas.h"

namespace steadyflux {

FlowMatchEulerSchedule schedule_of(const FluxModel& model, const Sampling& sampling,
                                   std::int64_t num_inference_steps, std::int64_t image_len) {
  return make_schedule(model.scheduler, model.transformer.guidance_embeds, sampling,
                       num_inference_steps, image_len);
}

std::vector<float> sigmas_to_do(const FluxModel& model, const Request& request) {
  auto sigmas = schedule_of(model, request.sampling, request.num_inference_steps,
                            tile_seq_len(model, request))
                    .sigmas;
  sigmas.erase(sigmas.begin(), sigmas.begin() + skipped_steps(request));
  return sigmas;
}

}  // namespace steadyflux
