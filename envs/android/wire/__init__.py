"""The phone as tools see it: adb's protocol, a shell, the emulator's controller. On loopback, and all simulated."""
