package mesh

import "sync/atomic"

// Counters count since Open, except those that end in Now.
type Counters struct {
	ConnectedNow       uint64
	AliveNow           uint64
	RefusedConnections uint64 // strangers at the gate
	GossipSent         uint64 // packets
	GossipReceived     uint64
	GossipDropped      uint64 // a queue was full
	GossipRefused      uint64 // malformed packets, strangers' names, forged heads
	LogSent            uint64 // messages
	LogReceived        uint64
	LogDropped         uint64 // a queue was full
	LogMisbehaved      uint64 // messages for which a stream was reset
	StudiesGranted     uint64
	StudiesRefused     uint64
	StudyStreamsNow    uint64 // served to peers
	StudyWants         uint64 // messages by which peers asked for blocks
	UrgentWants        uint64 // of them, for blocks that somebody waited for: each is a round trip to that person
	StudyStreamsBusy   uint64 // turned away for a limit
	BlocksServed       uint64
	BytesServed        uint64
	BlocksFetched      uint64
	BytesFetched       uint64
	BlocksByBitswap    uint64 // of BlocksFetched
	WrongBlocks        uint64
	CircuitsNow        uint64 // carried for others
	CircuitsRefused    uint64
	RelayedBytes       uint64 // carried for others
}

type counters struct {
	refusedConnections                                       atomic.Uint64
	gossipSent, gossipReceived, gossipDropped, gossipRefused atomic.Uint64
	logSent, logReceived, logDropped, logMisbehaved          atomic.Uint64
	studiesGranted, studiesRefused, studyStreamsBusy         atomic.Uint64
	studyWants, urgentWants                                  atomic.Uint64
	blocksServed, bytesServed                                atomic.Uint64
	blocksFetched, bytesFetched                              atomic.Uint64
	blocksByBitswap, wrongBlocks                             atomic.Uint64
	circuits                                                 atomic.Int64
	circuitsRefused, relayedBytes                            atomic.Uint64
}

// Counters returns a snapshot, for metrics.
func (m *Mesh) Counters() Counters {
	connected, alive := m.peers.count()
	c := &m.counters
	return Counters{
		ConnectedNow: uint64(connected), AliveNow: uint64(alive),
		RefusedConnections: c.refusedConnections.Load(),
		GossipSent:         c.gossipSent.Load(), GossipReceived: c.gossipReceived.Load(),
		GossipDropped: c.gossipDropped.Load(), GossipRefused: c.gossipRefused.Load(),
		LogSent: c.logSent.Load(), LogReceived: c.logReceived.Load(),
		LogDropped: c.logDropped.Load(), LogMisbehaved: c.logMisbehaved.Load(),
		StudiesGranted: c.studiesGranted.Load(), StudiesRefused: c.studiesRefused.Load(),
		StudyStreamsNow: uint64(m.studies.now()), StudyStreamsBusy: c.studyStreamsBusy.Load(),
		StudyWants: c.studyWants.Load(), UrgentWants: c.urgentWants.Load(),
		BlocksServed: c.blocksServed.Load(), BytesServed: c.bytesServed.Load(),
		BlocksFetched: c.blocksFetched.Load(), BytesFetched: c.bytesFetched.Load(),
		BlocksByBitswap: c.blocksByBitswap.Load(), WrongBlocks: c.wrongBlocks.Load(),
		CircuitsNow: uint64(max(c.circuits.Load(), 0)), CircuitsRefused: c.circuitsRefused.Load(), RelayedBytes: c.relayedBytes.Load(),
	}
}
