package node

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/priormesh/priormesh/node/archive"
)

// maxLogsShown bounds the nodes that have figures of their own.
const maxLogsShown = 500

// collector reads the node's figures when they are asked for.
type collector struct{ n *Node }

var (
	descStudies      = prometheus.NewDesc("priormesh_studies", "Studies, by where they are: own, copy, region.", []string{"where"}, nil)
	descFetches      = prometheus.NewDesc("priormesh_fetches", "Studies in the fetch queue, by priority; \"refused\" are those that everybody who has them has refused.", []string{"priority"}, nil)
	descHeard        = prometheus.NewDesc("priormesh_trust_heard", "1 if the trust has been heard from lately.", []string{"trust"}, nil)
	descBehind       = prometheus.NewDesc("priormesh_trust_facts_behind", "Facts that the trust has announced and this node has not yet.", []string{"trust"}, nil)
	descPeers        = prometheus.NewDesc("priormesh_peers_connected", "Connected nodes.", nil, nil)
	descBlocks       = prometheus.NewDesc("priormesh_blocks_total", "Blocks moved, by direction.", []string{"direction"}, nil)
	descAsked        = prometheus.NewDesc("priormesh_asked_total", "What other nodes have asked of this one: \"studies\", streams that were granted; \"blocks\", messages by which blocks were asked for on them.", []string{"what"}, nil)
	descBytes        = prometheus.NewDesc("priormesh_bytes_total", "Sealed bytes moved, by direction.", []string{"direction"}, nil)
	descSpace        = prometheus.NewDesc("priormesh_space_bytes", "Sealed bytes on disk: of originals, of copies, the quota of copies (0: none), and what is deleted and not given back yet.", []string{"of"}, nil)
	descSpaceStudies = prometheus.NewDesc("priormesh_space_studies", "Studies that are pinned, that may hold what they no longer need, and of which damage keeps that from being told.", []string{"state"}, nil)
	descFree         = prometheus.NewDesc("priormesh_disk_free_bytes", "Free on the disk of the home folder.", nil, nil)
	descReserve      = prometheus.NewDesc("priormesh_disk_reserve_bytes", "Kept free there.", nil, nil)
	descFull         = prometheus.NewDesc("priormesh_disk_full", "0: there is room; 1: no images are stored; 2: nothing from outside is.", nil, nil)
	descBucket       = prometheus.NewDesc("priormesh_bucket_reachable", "1 if the last request reached the bucket of originals; absent if they are on disk.", nil, nil)
	descLost         = prometheus.NewDesc("priormesh_lost_studies", "Studies that were received here and are gone since a restore, wholly or in part: \"copied\", others hold a copy, from where whole ones come back; \"alone\", nobody is known to hold one.", []string{"what"}, nil)
	descDamaged      = prometheus.NewDesc("priormesh_damaged_blocks", "Blocks and study keys here that are damaged or missing and not repaired.", nil, nil)
	descVerified     = prometheus.NewDesc("priormesh_verify_bytes_total", "Sealed bytes verified since the start.", nil, nil)
	descRepaired     = prometheus.NewDesc("priormesh_repaired_blocks_total", "Blocks and study keys repaired since the start.", nil, nil)
	descLastVerified = prometheus.NewDesc("priormesh_verify_last_end_timestamp_seconds", "When the background verification last got to the end of everything, Unix time; 0: never.", nil, nil)
	descLag          = prometheus.NewDesc("priormesh_log_lag_facts", "Facts that the trust has announced and this node has not yet.", []string{"trust"}, nil)
	descAge          = prometheus.NewDesc("priormesh_log_age_seconds", "Since this node last knew that it had all that the trust has said; +Inf: never.", []string{"trust"}, nil)
	descPosition     = prometheus.NewDesc("priormesh_log_position", "The newest position of a node's log that is here, in its newest epoch.", []string{"trust", "node"}, nil)
	descEpoch        = prometheus.NewDesc("priormesh_log_epoch", "The newest epoch of a node's log that is here.", []string{"trust", "node"}, nil)
	descForked       = prometheus.NewDesc("priormesh_forked_logs", "Logs that are quarantined because their node has signed two histories, and has not begun a new epoch.", nil, nil)
	descSnapshot     = prometheus.NewDesc("priormesh_snapshot_last_timestamp_seconds", "When the newest snapshot of this node's log was made, Unix time; 0: never.", nil, nil)
	descTaken        = prometheus.NewDesc("priormesh_snapshot_taking_pages", "Pages here of a snapshot of another node's log that is being taken up.", []string{"trust", "node"}, nil)
	descTaking       = prometheus.NewDesc("priormesh_snapshot_taking_pages_all", "Pages of that snapshot.", []string{"trust", "node"}, nil)
	descCircuits     = prometheus.NewDesc("priormesh_relay_circuits", "Connections between other nodes that this one carries as a relay.", nil, nil)
	descRelayed      = prometheus.NewDesc("priormesh_relay_bytes_total", "Bytes carried so.", nil, nil)
	descDoubts       = prometheus.NewDesc("priormesh_arrivals_in_doubt", "Studies that arrived within priors.window and for which not all that may be a prior was brought, by why: \"possible\", \"crowded number\", \"limit\".", []string{"why"}, nil)
	descShutOut      = prometheus.NewDesc("priormesh_shut_out", "Who is let in no more: \"trusts\" that were expelled, \"nodes\" that were revoked.", []string{"what"}, nil)
	descVotes        = prometheus.NewDesc("priormesh_votes_open", "Trusts that some have voted to admit, or to expel, and not enough yet.", []string{"to"}, nil)
	descWrong        = prometheus.NewDesc("priormesh_peer_wrong_total", "What a node sent that was forged, damaged or none: blocks, log messages, gossip.", []string{"trust", "node", "what"}, nil)
	descRefused      = prometheus.NewDesc("priormesh_refused_total", "What was refused: connections, studies, wrong blocks, log messages, gossip.", []string{"what"}, nil)
)

func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descStudies, descFetches, descHeard, descBehind, descPeers, descBlocks, descAsked, descBytes, descDoubts, descShutOut, descVotes, descWrong, descRefused, descSpace, descSpaceStudies, descFree, descReserve, descFull,
		descLag, descAge, descPosition, descEpoch, descForked, descSnapshot, descTaken, descTaking, descBucket, descLost, descDamaged, descVerified, descRepaired, descLastVerified, descCircuits, descRelayed} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	if own, copies, err := c.n.archive.Counts(); err == nil {
		gauge(descStudies, float64(own), "own")
		gauge(descStudies, float64(copies), "copy")
	}
	if _, l, err := c.n.lostStudies(); err == nil {
		gauge(descLost, float64(l.Studies-l.Alone), "copied")
		gauge(descLost, float64(l.Alone), "alone")
	}
	d := c.n.archive.DamageCounts()
	gauge(descDamaged, float64(d.Blocks))
	count(descVerified, d.BytesVerified)
	count(descRepaired, d.BlocksRepaired)
	last := 0.0
	if !d.LastVerified.IsZero() {
		last = float64(d.LastVerified.Unix())
	}
	gauge(descLastVerified, last)
	queued := make(map[string]int)
	for _, t := range c.n.archive.Tasks() {
		if t.State == archive.Refused {
			queued["refused"]++
			continue
		}
		queued[t.Priority.String()]++
	}
	for p, k := range queued {
		gauge(descFetches, float64(k), p)
	}
	roster := c.n.index.Roster()
	for _, t := range c.n.hearing.trusts(roster, c.n.hearing.nodes(roster)) {
		heard := 0.0
		if t.Heard {
			heard = 1
		}
		gauge(descHeard, heard, t.Trust)
		gauge(descBehind, float64(t.Behind), t.Trust)
	}
	logs := 0
	for _, b := range c.n.Basis() {
		gauge(descLag, float64(b.Behind), b.Trust)
		age := math.Inf(1)
		if b.Age != nil {
			age = *b.Age
		}
		gauge(descAge, age, b.Trust)
		for _, l := range b.Logs {
			if logs++; logs > maxLogsShown {
				break
			}
			gauge(descPosition, float64(l.Seq), b.Trust, l.Node)
			gauge(descEpoch, float64(l.Epoch), b.Trust, l.Node)
		}
	}
	forked := 0
	for _, f := range c.n.forks() {
		if !f.Over {
			forked++
		}
	}
	gauge(descForked, float64(forked))
	if own, taking, err := c.n.snapshots.status(); err == nil {
		made := 0.0
		if !own.Made.IsZero() {
			made = float64(own.Made.Unix())
		}
		gauge(descSnapshot, made)
		for _, b := range taking[:min(len(taking), maxLogsShown)] {
			gauge(descTaken, float64(b.Pages), b.Trust, b.Node)
			gauge(descTaking, float64(b.Of), b.Trust, b.Node)
		}
	}
	if s, err := c.n.space(); err == nil {
		gauge(descSpace, float64(s.Originals.Stored), "originals")
		gauge(descSpace, float64(s.Copies.Stored), "copies")
		gauge(descSpace, float64(s.Quota), "copies quota")
		gauge(descSpace, float64(s.Reclaimable), "reclaimable")
		gauge(descSpaceStudies, float64(s.Pinned), "pinned")
		gauge(descSpaceStudies, float64(s.Unswept), "unswept")
		gauge(descSpaceStudies, float64(s.Damaged), "damaged")
	}
	doubts := c.n.priors.Doubts()
	gauge(descDoubts, float64(doubts.Possible), "possible")
	gauge(descDoubts, float64(doubts.Crowded), "crowded number")
	gauge(descDoubts, float64(doubts.Limited), "limit")
	gauge(descShutOut, float64(len(roster.Expelled)), "trusts")
	gauge(descShutOut, float64(len(roster.Revoked)), "nodes")
	gauge(descVotes, float64(len(roster.Candidates)), "admit")
	gauge(descVotes, float64(len(roster.Expulsions)), "expel")
	level, free := c.n.disk.now()
	gauge(descFree, float64(free))
	gauge(descReserve, float64(c.n.disk.reserve))
	gauge(descFull, float64(min(level, critical)))
	if b := c.n.bucketStatus(); b != nil {
		reached := 0.0
		if b.Reachable {
			reached = 1
		}
		gauge(descBucket, reached)
	}
	m := c.n.mesh.Counters()
	gauge(descPeers, float64(m.ConnectedNow))
	count(descBlocks, m.BlocksServed, "served")
	count(descBlocks, m.BlocksFetched, "fetched")
	count(descAsked, m.StudiesGranted, "studies")
	count(descAsked, m.StudyWants, "blocks")
	count(descBytes, m.BytesServed, "served")
	count(descBytes, m.BytesFetched, "fetched")
	gauge(descCircuits, float64(m.CircuitsNow))
	count(descRelayed, m.RelayedBytes)
	count(descRefused, m.RefusedConnections, "connections")
	count(descRefused, m.StudiesRefused, "studies")
	count(descRefused, m.WrongBlocks, "wrong blocks")
	count(descRefused, m.LogMisbehaved, "log messages")
	count(descRefused, m.GossipRefused, "gossip")
	for _, p := range c.n.Peers() {
		count(descWrong, uint64(p.Wrong.Blocks), p.Trust, p.Peer, "blocks")
		count(descWrong, uint64(p.Wrong.Log), p.Trust, p.Peer, "log messages")
		count(descWrong, uint64(p.Wrong.Gossip), p.Trust, p.Peer, "gossip")
	}
}
