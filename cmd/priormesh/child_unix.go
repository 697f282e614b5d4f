//go:build unix && !linux

package main

import "syscall"

// childAttr gives a child its own group, so that Ctrl-C at the terminal reaches
// this program alone, which then ends its children in order.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
