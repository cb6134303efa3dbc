// placeholder until the kernel list lands in the next commit
