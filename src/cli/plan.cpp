// steadyflux plan: how a picture would be made within the memory there is, or that is asked for.
#include <unistd.h>

#include <optional>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/plan_inputs.h"
#include "cli/plan_text.h"
#include "cli/request.h"
#include "cli/text_output.h"
#include "pipeline/lora_set.h"
#include "steadyflux/error.h"

namespace steadyflux::cli {

void run_plan(const CommandLine& line) {
  const GenerateJob job = make_plan_job(line);
  Console console(job.verbosity);
  for (const std::string& warning : job.warnings) console.warning(warning);
  // Shapes are compared with those that the configuration files give.
  const auto loras = open_loras(job.model, job.request.loras);
  for (const std::string& warning : loras->warnings) console.warning(warning);
  const PlanInputs inputs = make_plan_inputs(job);
  const Plan plan = make_plan(job.model, inputs.workload, inputs.budget, inputs.options);
  std::optional<Remedies> remedies;
  if (!plan.fits) remedies = find_remedies(job.model, inputs);
  if (job.json) {
    print_json(plan_json(plan, inputs.title, remedies));
  } else {
    print_text(plan_text(plan, inputs.title, text_style_of(STDOUT_FILENO)));
  }
  if (remedies) throw Error(ErrorKind::kDoesNotFit, does_not_fit_text(plan, *remedies));
}

}  // namespace steadyflux::cli
