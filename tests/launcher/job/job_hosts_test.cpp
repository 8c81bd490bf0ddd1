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
    return StaysOnThisHost({.ranks = 2,
                            .hostfile = hosts.empty() ? "" : hostfile,
                            .mpirun_arguments = arguments,
                            .log_level = {}});
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
}

TEST(JobHosts, WrongFlagsAreFoundBeforeAnythingStarts) {
  const auto wrong = [](const LaunchOptions& launch, const std::string& interface = "") {
    ModelOptions model;
    model.control_interface = interface;
    const absl::Status status = CheckLaunch(model, launch);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status));
    return Message(status);
  };
  const auto with = [](const std::string& hostfile, const std::string& arguments = "") {
    return LaunchOptions{
        .ranks = 2, .hostfile = hostfile, .mpirun_arguments = arguments, .log_level = {}};
  };
  EXPECT_EQ(wrong(with("")), "");
  EXPECT_EQ(wrong(with("/etc/passwd", "--map-by node")), "");
  EXPECT_EQ(wrong(with("/no/such")), "--hostfile /no/such: No such file or directory");
  EXPECT_EQ(wrong(with("/tmp")), "--hostfile /tmp: it is a folder, and no file");
  EXPECT_EQ(wrong(with("", "'x")).find("--mpirun-arguments: "), 0U);
  EXPECT_EQ(wrong(with(""), "eth77").find("--control-interface eth77: "), 0U);
}

TEST(JobHosts, MpirunKeepsWholeNamesUnlessTheUserSaysOtherwise) {
  EXPECT_FALSE(KeepsWholeNames({"-v"}));
  EXPECT_TRUE(KeepsWholeNames({"--mca", "orte_keep_fqdn_hostnames", "0"}));
  setenv("OMPI_MCA_orte_keep_fqdn_hostnames", "0", 1);
  EXPECT_TRUE(KeepsWholeNames({"-v"}));
  unsetenv("OMPI_MCA_orte_keep_fqdn_hostnames");
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

}  // namespace
}  // namespace tandem::launcher
