// Where the processes that share one prompt file meet: read from the environment that torchrun,
// SLURM and MPI launchers set, or from --rendezvous HOST:PORT. Only text is looked at here; nothing
// is opened or resolved (store.cpp does that).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace steadyflux {

struct Rendezvous {
  std::string host;
  std::uint16_t port = 0;
  // This process runs the store. With the launcher "option": it may, if nothing listens yet and
  // `host` is this machine.
  bool host_store = false;
  std::int64_t rank = -1;        // -1: the launcher does not say
  std::int64_t world_size = 0;   // 0: not known, whoever comes takes part
  std::int64_t local_rank = -1;  // among the processes of this machine; -1: not known
  std::string prefix;            // of the keys in the store; differs between launches
  std::string launcher;          // "torchrun", "slurm", "mpi" or "option"
};

// Nothing if there is nobody to share with: no launcher, or one process, and no `option`. An
// `option` goes before the launcher's own address. Throws Error{kUsage} that names the variable
// or option that makes no sense.
std::optional<Rendezvous> find_rendezvous(const std::function<const char*(const char*)>& getenv,
                                          const std::optional<std::string>& option);

// Processes of this launch on this machine, which share its cores and its memory; 1 if the launcher
// does not say.
int processes_here(const std::function<const char*(const char*)>& getenv);

}  // namespace steadyflux
