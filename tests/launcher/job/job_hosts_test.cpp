#include "launcher/job/job_hosts.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace tandem::launcher {
namespace {

TEST(JobHosts, KnowsAJobOfThisHost) {
  const std::string hostfile = ::testing::TempDir() + "/hosts";
  const auto stays = [&](const std::string& hosts, const std::string& arguments) {
    std::ofstream(hostfile) << hosts;
    return *StaysOnThisHost(
        {.ranks = 2, .hostfile = hosts.empty() ? "" : hostfile, .mpirun_arguments = arguments});
  };
  EXPECT_TRUE(stays("", ""));
  EXPECT_TRUE(stays("# far\nlocalhost slots=2\n\n127.0.0.1\n", "--map-by node"));
  EXPECT_FALSE(stays("localhost\nfar-away\n", ""));
  for (const char* elsewhere :
       {"--host far-away", "-H far-away", "-machinefile x", "--mca plm slurm"}) {
    EXPECT_FALSE(stays("", elsewhere)) << elsewhere;
  }
  setenv("SLURM_JOB_ID", "1", 1);
  EXPECT_FALSE(stays("", ""));
  unsetenv("SLURM_JOB_ID");
  EXPECT_EQ(
      StaysOnThisHost({.ranks = 2, .hostfile = "/no/such", .mpirun_arguments = {}}).status().code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(JobHosts, ReachesHostsThroughThisProgram) {
  std::vector<std::string> none;
  EXPECT_TRUE(ReachThroughThisProgram(none).ends_with("/launcher_test reach ssh"));
  std::vector<std::string> own = {"--mca", "plm_rsh_agent", "/bin/lab_rsh", "-v"};
  EXPECT_EQ(ReachThroughThisProgram(own), "");
  EXPECT_TRUE(own[2].ends_with("/launcher_test reach /bin/lab_rsh")) << own[2];
  std::vector<std::string> several = {"-mca", "plm_rsh_agent", "ssh : rsh"};
  EXPECT_EQ(ReachThroughThisProgram(several), "");
  EXPECT_EQ(several[2], "ssh : rsh");
}

TEST(JobHosts, SaysWhichHostIsNotReached) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(ReachHost({"/bin/sh", "-c", "echo 'no route'; echo why >&2; echo --- >&2; exit 3"}), 3);
  EXPECT_EQ(UnreachedHost(::testing::internal::GetCapturedStderr()), "-c: why\n");
  EXPECT_EQ(ReachHost({"/bin/sh", "-c", "exit 0"}), 0);
  EXPECT_EQ(UnreachedHost("tandem: anything else"), "");
}

}  // namespace
}  // namespace tandem::launcher
