#include "sharing/rendezvous.h"

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Getenv = std::function<const char*(const char*)>;

// Derived ports lie below Linux's ephemeral ports (32768...).
constexpr std::uint64_t kFirstDerivedPort = 10000;
constexpr std::uint64_t kDerivedPorts = 20000;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::kUsage, message); }

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || stop != end) return std::nullopt;
  return value;
}

class Environment {
 public:
  explicit Environment(const Getenv& getenv) : getenv_(getenv) {}

  // An empty variable counts as one that is not set.
  std::optional<std::string> text(const char* name) const {
    const char* value = getenv_(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  }

  std::optional<std::string> first_text(std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      if (auto value = text(name)) return value;
    }
    return std::nullopt;
  }

  std::optional<std::int64_t> integer(const char* name, std::int64_t least,
                                      std::int64_t most = INT64_MAX) const {
    const auto value = text(name);
    if (!value) return std::nullopt;
    const auto number = parse_integer(*value);
    if (!number || *number < least || *number > most) {
      fail("the environment variable " + std::string(name) + " is \"" + printable(*value) +
           "\", expected a whole number" +
           (most == INT64_MAX ? " >= " + std::to_string(least)
                              : " from " + std::to_string(least) + " to " + std::to_string(most)));
    }
    return number;
  }

  bool has(const char* name) const { return text(name).has_value(); }

 private:
  const Getenv& getenv_;
};

std::uint16_t derived_port(std::string_view id) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return static_cast<std::uint16_t>(kFirstDerivedPort + hash % kDerivedPorts);
}

// "node[003-010,012],other5" -> "node003"
std::string first_host(const std::string& list) {
  std::string host;
  for (std::size_t at = 0; at < list.size() && list[at] != ','; ++at) {
    if (list[at] != '[') {
      host += list[at];
      continue;
    }
    const std::size_t close = list.find(']', at);
    if (close == std::string::npos) fail("SLURM's list of nodes has no end: " + printable(list));
    host += list.substr(at + 1, list.find_first_of("-,]", at + 1) - at - 1);
    at = close;
  }
  if (host.empty()) fail("SLURM's list of nodes names no node: " + printable(list));
  return host;
}

// What a launcher says about this process, without the address.
struct Place {
  std::int64_t rank = -1;
  std::int64_t world_size = 0;
  std::int64_t local_rank = -1;
  std::string launcher;
};

// `rank_name` and `size_name` are both set.
Place read_place(const Environment& env, const std::string& launcher, const char* rank_name,
                 const char* size_name, const char* local_rank_name) {
  Place place;
  place.launcher = launcher;
  place.world_size = *env.integer(size_name, 1);
  place.rank = *env.integer(rank_name, 0);
  place.local_rank = env.integer(local_rank_name, 0).value_or(-1);
  if (place.rank >= place.world_size) {
    fail(std::string(rank_name) + " is " + std::to_string(place.rank) + ", but " + size_name +
         " is " + std::to_string(place.world_size) + ": ranks count from 0");
  }
  return place;
}

// MPI goes before SLURM: mpirun inside a SLURM job leaves SLURM's variables of the shell, or of
// its own helper processes, to the ranks.
std::optional<Place> find_place(const Environment& env) {
  if (env.has("RANK") && env.has("WORLD_SIZE")) {
    return read_place(env, "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK");
  }
  if (env.has("OMPI_COMM_WORLD_RANK") && env.has("OMPI_COMM_WORLD_SIZE")) {
    return read_place(env, "mpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                      "OMPI_COMM_WORLD_LOCAL_RANK");
  }
  if (env.has("PMI_RANK") && env.has("PMI_SIZE")) {
    return read_place(env, "mpi", "PMI_RANK", "PMI_SIZE",
                      env.has("MPI_LOCALRANKID") ? "MPI_LOCALRANKID" : "SLURM_LOCALID");
  }
  const char* tasks = env.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  if (env.has("SLURM_PROCID") && env.has(tasks)) {
    return read_place(env, "slurm", "SLURM_PROCID", tasks, "SLURM_LOCALID");
  }
  return std::nullopt;
}

Rendezvous at_place(const Place& place) {
  Rendezvous rendezvous;
  rendezvous.rank = place.rank;
  rendezvous.world_size = place.world_size;
  rendezvous.local_rank = place.local_rank;
  rendezvous.launcher = place.launcher;
  rendezvous.host_store = place.rank == 0;
  return rendezvous;
}

// torchrun's agent runs a store on MASTER_PORT, unless told not to; it starts the group again with
// another restart count.
Rendezvous from_torchrun(const Environment& env, const Place& place) {
  Rendezvous rendezvous = at_place(place);
  const auto host = env.text("MASTER_ADDR");
  const auto port = env.integer("MASTER_PORT", 1, 65535);
  if (!host || !port) {
    fail("RANK and WORLD_SIZE are set, but " + std::string(host ? "MASTER_PORT" : "MASTER_ADDR") +
         " is not: set it, or use --rendezvous HOST:PORT");
  }
  rendezvous.host = *host;
  rendezvous.port = static_cast<std::uint16_t>(*port);
  const auto agent = env.text("TORCHELASTIC_USE_AGENT_STORE");
  if (agent && (*agent == "True" || *agent == "true" || *agent == "1")) {
    rendezvous.host_store = false;
  }
  rendezvous.prefix = "torchrun/" + env.text("TORCHELASTIC_RUN_ID").value_or("") + "/" +
                      env.text("TORCHELASTIC_RESTART_COUNT").value_or("0");
  return rendezvous;
}

std::string slurm_id(const Environment& env) {
  const auto job = env.first_text({"SLURM_JOB_ID", "SLURM_JOBID"});
  if (!job) return "";
  return *job + "." + env.first_text({"SLURM_STEP_ID", "SLURM_STEPID"}).value_or("");
}

bool all_on_this_machine(const Environment& env, std::int64_t world_size) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"}) {
    if (env.integer(name, 1) == world_size) return true;
  }
  return false;
}

// Rank 0 runs the store, on the first node.
Rendezvous from_slurm_or_mpi(const Environment& env, const Place& place) {
  Rendezvous rendezvous = at_place(place);
  const auto nodes = env.first_text({"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"});
  if (const auto host = env.text("MASTER_ADDR")) {
    rendezvous.host = *host;
  } else if (place.launcher == "mpi" && all_on_this_machine(env, place.world_size)) {
    rendezvous.host = "127.0.0.1";
  } else if (nodes) {
    rendezvous.host = first_host(*nodes);
  } else {
    fail("there are " + std::to_string(place.world_size) + " processes (" + place.launcher +
         "), but no address where they can meet: add --rendezvous HOST:PORT, with HOST the "
         "machine of one of them");
  }
  std::string id = place.launcher == "slurm" ? slurm_id(env) : "";
  if (id.empty()) {
    id = env.first_text({"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID"})
             .value_or(slurm_id(env));
  }
  const auto port = env.integer("MASTER_PORT", 1, 65535);
  rendezvous.port = port ? static_cast<std::uint16_t>(*port) : derived_port(id);
  rendezvous.prefix = place.launcher + "/" + id;
  return rendezvous;
}

// The world's size is not taken from the launcher here: with an address of their own, processes of
// several launchers, and of none, may meet.
Rendezvous from_option(const std::string& option, const std::optional<Place>& place) {
  const std::size_t colon = option.rfind(':');
  std::string host = option.substr(0, colon);
  const auto port =
      colon == std::string::npos ? std::nullopt : parse_integer(option.substr(colon + 1));
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool bare_ipv6 = !bracketed && host.find(':') != std::string::npos;
  if (!port || *port < 1 || *port > 65535 || host.empty() || bare_ipv6 ||
      host.find_first_of(" \t\n/[]") != std::string::npos) {
    fail("--rendezvous " + printable(option) +
         ": expected HOST:PORT with a port from 1 to 65535, such as node1:29500 or [::1]:29500");
  }
  Rendezvous rendezvous = place ? at_place(*place) : Rendezvous();
  rendezvous.host = host;
  rendezvous.port = static_cast<std::uint16_t>(*port);
  rendezvous.host_store = true;
  rendezvous.world_size = 0;
  rendezvous.launcher = "option";
  rendezvous.prefix = "option";
  return rendezvous;
}

}  // namespace

std::optional<Rendezvous> find_rendezvous(const Getenv& getenv,
                                          const std::optional<std::string>& option) {
  const Environment env(getenv);
  const auto place = find_place(env);
  if (option) return from_option(*option, place);
  if (!place || place->world_size == 1) return std::nullopt;
  return place->launcher == "torchrun" ? from_torchrun(env, *place)
                                       : from_slurm_or_mpi(env, *place);
}

int processes_here(const std::function<const char*(const char*)>& getenv) {
  for (const char* name : {"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                           "SLURM_NTASKS_PER_NODE"}) {
    const char* text = getenv(name);
    const int count = text == nullptr ? 0 : std::atoi(text);
    if (count > 0) return count;
  }
  return 1;
}

}  // namespace steadyflux
