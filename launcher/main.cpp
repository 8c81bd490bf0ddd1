#include "launcher/command_line.h"

int main(int argc, char** argv) { return tandem::launcher::RunCommandLine(argc, argv); }
