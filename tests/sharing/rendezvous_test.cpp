// Tables of environments, as launchers set them, and what is read from them.
#include "sharing/rendezvous.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "expect_error.h"

namespace steadyflux {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<Rendezvous> find(const Variables& variables,
                               const std::optional<std::string>& option = std::nullopt) {
  const auto getenv = [&](const char* name) -> const char* {
    const auto at = variables.find(name);
    return at == variables.end() ? nullptr : at->second.c_str();
  };
  return find_rendezvous(getenv, option);
}

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

const Variables kTorchrun = {{"RANK", "1"},
                             {"WORLD_SIZE", "4"},
                             {"LOCAL_RANK", "1"},
                             {"MASTER_ADDR", "node1"},
                             {"MASTER_PORT", "29400"},
                             {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                             {"TORCHELASTIC_RUN_ID", "none"},
                             {"TORCHELASTIC_RESTART_COUNT", "2"}};
const Variables kSlurm = {{"SLURM_PROCID", "5"},    {"SLURM_NTASKS", "8"},
                          {"SLURM_LOCALID", "1"},   {"SLURM_JOB_NODELIST", "gpu[07-09,12],login1"},
                          {"SLURM_JOB_ID", "4711"}, {"SLURM_STEP_ID", "0"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "0"},
                            {"OMPI_COMM_WORLD_SIZE", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                            {"PMIX_NAMESPACE", "1234567"}};
const Variables kMpich = {
    {"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};

TEST(Rendezvous, OneProcessHasNobodyToMeet) {
  EXPECT_FALSE(find({}));
  EXPECT_FALSE(find({{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "1"}}));
  EXPECT_FALSE(find({{"RANK", "0"}}));  // set by other things too
  EXPECT_FALSE(find(with(kTorchrun, {{"RANK", "0"}, {"WORLD_SIZE", "1"}})));
  EXPECT_FALSE(find({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}}));
  EXPECT_FALSE(find({{"RANK", ""}, {"WORLD_SIZE", ""}}));
}

TEST(Rendezvous, UnderTorchrunTheAgentHostsTheStore) {
  for (const char* rank : {"0", "3"}) {
    const auto found = find(with(kTorchrun, {{"RANK", rank}}));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->launcher, "torchrun");
    EXPECT_EQ(found->host, "node1");
    EXPECT_EQ(found->port, 29400);
    EXPECT_EQ(found->rank, std::stoi(rank));
    EXPECT_EQ(found->world_size, 4);
    EXPECT_EQ(found->local_rank, 1);
    EXPECT_FALSE(found->host_store);
    EXPECT_EQ(found->prefix, "torchrun/none/2");
  }
}

TEST(Rendezvous, WithoutTheAgentsStoreRankZeroHostsIt) {
  const Variables own = with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}});
  EXPECT_TRUE(find(with(own, {{"RANK", "0"}}))->host_store);
  EXPECT_FALSE(find(with(own, {{"RANK", "1"}}))->host_store);
}

TEST(Rendezvous, ARestartedGroupBeginsWithOtherKeys) {
  EXPECT_NE(find(kTorchrun)->prefix,
            find(with(kTorchrun, {{"TORCHELASTIC_RESTART_COUNT", "3"}}))->prefix);
}

TEST(Rendezvous, SlurmMeetsAtTheFirstNode) {
  const auto found = find(kSlurm);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->launcher, "slurm");
  EXPECT_EQ(found->host, "gpu07");
  EXPECT_EQ(found->rank, 5);
  EXPECT_EQ(found->world_size, 8);
  EXPECT_EQ(found->local_rank, 1);
  EXPECT_FALSE(found->host_store);
  EXPECT_TRUE(find(with(kSlurm, {{"SLURM_PROCID", "0"}}))->host_store);
}

TEST(Rendezvous, TheFirstHostOfANodeList) {
  const std::map<std::string, std::string> lists = {
      {"node1", "node1"},
      {"node1,node2", "node1"},
      {"n[3]", "n3"},
      {"n[003-010,012],m1", "n003"},
      {"rack[1-2]n[05,07].site.org", "rack1n05.site.org"},
  };
  for (const auto& [list, host] : lists) {
    EXPECT_EQ(find(with(kSlurm, {{"SLURM_STEP_NODELIST", list}}))->host, host) << list;
  }
  for (const char* list : {"n[3", ",n1"}) {
    expect_error(ErrorKind::kUsage, "list of nodes", [&] {
      find(with(kSlurm, {{"SLURM_JOB_NODELIST", list}}));
    });
  }
}

TEST(Rendezvous, AStepOfSlurmCountsItsOwnTasks) {
  EXPECT_FALSE(find(with(kSlurm, {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}})));
  EXPECT_EQ(find(with(kSlurm, {{"SLURM_STEP_NUM_TASKS", "6"}}))->world_size, 6);
}

TEST(Rendezvous, PortsFollowFromTheJobAndStayBelowEphemeralOnes) {
  EXPECT_EQ(find(kSlurm)->port, find(with(kSlurm, {{"SLURM_PROCID", "0"}}))->port);
  EXPECT_NE(find(kSlurm)->port, find(with(kSlurm, {{"SLURM_STEP_ID", "1"}}))->port);
  for (int job = 1; job < 300; ++job) {
    const auto found = find(with(kSlurm, {{"SLURM_JOB_ID", std::to_string(job)}}));
    EXPECT_GE(found->port, 10000);
    EXPECT_LT(found->port, 30000);
  }
  EXPECT_EQ(find(with(kSlurm, {{"MASTER_PORT", "555"}}))->port, 555);
  EXPECT_EQ(find(with(kSlurm, {{"MASTER_ADDR", "head"}}))->host, "head");
}

TEST(Rendezvous, MpiOnOneMachineMeetsAtLoopback) {
  const auto open_mpi = find(kOpenMpi);
  ASSERT_TRUE(open_mpi);
  EXPECT_EQ(open_mpi->launcher, "mpi");
  EXPECT_EQ(open_mpi->host, "127.0.0.1");
  EXPECT_TRUE(open_mpi->host_store);
  EXPECT_EQ(open_mpi->local_rank, 0);
  EXPECT_NE(open_mpi->port, find(with(kOpenMpi, {{"PMIX_NAMESPACE", "1234568"}}))->port);

  const auto mpich = find(kMpich);
  ASSERT_TRUE(mpich);
  EXPECT_EQ(mpich->launcher, "mpi");
  EXPECT_EQ(mpich->host, "127.0.0.1");
  EXPECT_EQ(mpich->rank, 1);
  EXPECT_EQ(mpich->local_rank, 1);
  EXPECT_FALSE(mpich->host_store);
}

TEST(Rendezvous, MpiOnSeveralMachinesNeedsAnAddress) {
  const Variables spread = with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}});
  expect_error(ErrorKind::kUsage, "--rendezvous HOST:PORT", [&] { find(spread); });
  EXPECT_EQ(find(with(spread, {{"MASTER_ADDR", "head"}}))->host, "head");
  EXPECT_EQ(find(with(spread, {{"SLURM_JOB_NODELIST", "c[1-2]"}}))->host, "c1");
  EXPECT_EQ(find(spread, "head:77")->rank, 0);
}

// mpirun in a SLURM job: the ranks inherit the variables of the shell that started it.
TEST(Rendezvous, MpisRanksGoBeforeThoseOfTheSlurmJobAround) {
  const auto found = find(with(with(kSlurm, {{"SLURM_PROCID", "0"}}), kMpich));
  EXPECT_EQ(found->launcher, "mpi");
  EXPECT_EQ(found->rank, 1);
  EXPECT_EQ(found->world_size, 2);
}

TEST(Rendezvous, AnOptionNeedsNoRanks) {
  const auto found = find({}, "node1:29500");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->launcher, "option");
  EXPECT_EQ(found->host, "node1");
  EXPECT_EQ(found->port, 29500);
  EXPECT_TRUE(found->host_store);
  EXPECT_EQ(found->rank, -1);
  EXPECT_EQ(found->local_rank, -1);
  EXPECT_EQ(found->world_size, 0);
  EXPECT_EQ(find({}, "[::1]:80")->host, "::1");
}

TEST(Rendezvous, AnOptionGoesBeforeTheLaunchersAddressAndKeepsItsRanks) {
  for (const Variables& variables : {kTorchrun, kSlurm, kMpich}) {
    const auto found = find(variables, "10.0.0.1:29500");
    EXPECT_EQ(found->host, "10.0.0.1");
    EXPECT_EQ(found->local_rank, 1);
    EXPECT_EQ(found->prefix, find({}, "10.0.0.1:29500")->prefix);
  }
}

TEST(Rendezvous, BadOptions) {
  for (const char* option :
       {"", "node1", "node1:", ":29500", "node1:0", "node1:65536", "node1:x", "node1:29500x",
        "::1:29500", "a b:1", "http://node1:80", "[]:1", "node1:-1", "node1: 1"}) {
    expect_error(ErrorKind::kUsage, "expected HOST:PORT", [&] { find({}, option); });
  }
}

TEST(Rendezvous, NonsenseInTheEnvironmentIsNamed) {
  const struct {
    Variables variables;
    const char* message;
  } cases[] = {
      {with(kTorchrun, {{"RANK", "4"}}), "RANK is 4, but WORLD_SIZE is 4"},
      {with(kTorchrun, {{"RANK", "-1"}}), "RANK is \"-1\""},
      {with(kTorchrun, {{"RANK", "one"}}), "RANK is \"one\""},
      {with(kTorchrun, {{"WORLD_SIZE", "0"}}), "WORLD_SIZE is \"0\""},
      {with(kTorchrun, {{"LOCAL_RANK", "1.5"}}), "LOCAL_RANK is \"1.5\""},
      {with(kTorchrun, {{"MASTER_PORT", "70000"}}), "MASTER_PORT is \"70000\""},
      {with(kTorchrun, {{"MASTER_PORT", ""}}), "MASTER_PORT is not"},
      {with(kTorchrun, {{"MASTER_ADDR", ""}}), "MASTER_ADDR is not"},
      {with(kSlurm, {{"SLURM_NTASKS", "99999999999999999999"}}), "SLURM_NTASKS"},
      {with(kSlurm, {{"SLURM_PROCID", "8"}}), "SLURM_PROCID is 8"},
      {with(kSlurm, {{"SLURM_JOB_NODELIST", ""}}), "--rendezvous HOST:PORT"},
      {with(kMpich, {{"PMI_RANK", "\x1b[31m"}}), "PMI_RANK is \"\\x1B[31m\""},
  };
  for (const auto& [variables, message] : cases) {
    expect_error(ErrorKind::kUsage, message, [&, &variables = variables] { find(variables); });
  }
}

}  // namespace
}  // namespace steadyflux
