package mesh

// Crash ends the mesh as a killed process would: nobody is told.
func (m *Mesh) Crash() {
	m.tasks.stop()
	m.gossip.mu.Lock()
	m.gossip.over = true
	m.gossip.mu.Unlock()
	_ = m.gossip.list.Shutdown()
	m.cancel()
	_ = m.bitswap.Close()
	_ = m.host.Close()
	m.tasks.wait()
}
