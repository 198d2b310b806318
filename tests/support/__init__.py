"""What tests share: commands in this process, tiny runs, hostile files, engines that compute nothing."""
