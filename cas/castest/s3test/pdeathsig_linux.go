package s3test

import "syscall"

// endWithParent has the kernel end the server when the test process dies, so a
// test run that is itself killed leaves no server behind.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
