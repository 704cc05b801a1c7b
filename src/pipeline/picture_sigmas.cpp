#include "pipeline/picture_sigmas.h"

#include "scheduler/flow_match_euler.h"

namespace steadyflux {

std::vector<float> sigmas_to_do(const FluxModel& model, const Request& request) {
  auto sigmas =
      make_schedule(model.scheduler, request.num_inference_steps, tile_seq_len(model, request))
          .sigmas;
  sigmas.erase(sigmas.begin(), sigmas.begin() + skipped_steps(request));
  return sigmas;
}

}  // namespace steadyflux
