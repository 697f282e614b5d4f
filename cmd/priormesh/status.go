package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

type statusCmd struct{ homeFlag }

func (statusCmd) Help() string {
	return `Says which trusts this node hears, how many studies it knows, what it is bringing, and what needs a person: conflicts, quarantined nodes, warnings.

Of each other trust:

  HEARD      when one of its nodes last said anything; "silent" when that is too long ago, and every answer then names the trust
  WAY        how its nodes are connected: "tcp", "quic", "tcp by RX2" through a relay of RX2; "-": they are not
  LACKING    what it has said and this node does not show: "12 on the way" come by themselves (if they do not and HEARD is fresh, that node may have lost them, or never said them: ask the trust); "3 without contents" were lost on the way and are asked for; "2 unread" need a newer version of this program. "-": nothing
  ALL KNOWN  when this node last had all that the trust had said. Long ago while HEARD is fresh: see LACKING. "no": a node of it is quarantined
  LOG        how far this node has read what each node of the trust says: epoch (it grows when a node is restored) and position
  STUDIES    how many studies it has received

Lines that begin with "vote" say what has been voted and is not decided: by whom, and how many votes it takes. "expelled" and "revoked" are who is let in no more: trusts that were voted out, and nodes whose own trust has said so.

Each line that begins with "warning" says what is wrong and what to do. A node is quarantined when it has signed two different histories: two copies of its home run, or ran. Nothing that it says is taken until its trust has ended one of them.

Examples:

    priormesh status --home /srv/priormesh
    priormesh status --home /srv/priormesh --json | jq '.roster'
    priormesh status --home /srv/priormesh --json | jq '.trusts[] | select(.heard | not) | .trust'
    priormesh status --home /srv/priormesh --json | jq '.rests_on'`
}

func (c *statusCmd) Run(p *program) error {
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	s, err := client.Status(p.ctx)
	if err != nil {
		return err
	}
	return p.result(s, func(w io.Writer) { statusText(w, s, time.Now()) })
}

func statusText(out io.Writer, s api.Status, now time.Time) {
	fmt.Fprintf(out, "%s (%s) in the region %q, running for %s, version %s\n", plain(s.Trust), plain(s.Name), s.Region, ago(now.Sub(s.Started)), plain(s.Version))
	fmt.Fprintf(out, "  node      %s\n", s.Peer)
	fmt.Fprintf(out, "  DICOMweb  http://%s/dicom-web\n", s.HTTP)
	if s.DIMSE != "" {
		fmt.Fprintf(out, "  DIMSE     %s\n", s.DIMSE)
	}
	for _, a := range s.Mesh {
		fmt.Fprintf(out, "  mesh      %s\n", plain(a))
	}
	fmt.Fprintf(out, "  studies   %d received here, %d copies of other trusts', %d in the region\n", s.Studies.Own, s.Studies.Copies, s.Studies.Region)
	if s.Relay != nil {
		fmt.Fprintf(out, "  relay     carries %s between other nodes, %s since the start\n", plural(int(s.Relay.Circuits), "connection", "connections"), node.Size(s.Relay.Bytes))
	}
	bucketText(out, s.Bucket, now)
	spaceText(out, s.Space)
	if len(s.Trusts) > 0 {
		fmt.Fprintln(out)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TRUST\tNAME\tHEARD\tWAY\tLACKING\tALL KNOWN\tLOG\tSTUDIES")
		for _, t := range s.Trusts {
			heard := "never"
			if !t.LastHeard.IsZero() {
				heard = ago(now.Sub(t.LastHeard)) + " ago"
			}
			if !t.Heard {
				heard += " (silent)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", plain(t.Trust), short(t.Name, 40), heard, ways(s.Peers, t.Trust), lacking(t), known(s.Basis, t, now), positions(s.Basis, t.Trust), t.Studies)
		}
		w.Flush()
	}
	rosterText(out, s.Roster)
	doubtText(out, s.Doubts)
	if len(s.Fetches) > 0 {
		fmt.Fprintf(out, "\nbringing %s:\n", plural(len(s.Fetches), "study", "studies"))
		for _, f := range s.Fetches {
			fmt.Fprintf(out, "  %s  %s, %s", plain(f.Study), plain(f.Priority), f.State)
			if f.Instances > 0 { // else nobody has given its list yet
				fmt.Fprintf(out, ", %d of %d instances", f.InstancesHere, f.Instances)
			}
			if text := fetchText(f); text != "" {
				fmt.Fprintf(out, ": %s", text)
			}
			if f.Error != "" {
				fmt.Fprintf(out, "; attempt %d failed: %s", f.Attempts, plain(f.Error))
			}
			fmt.Fprintln(out)
		}
	}
	for _, c := range s.Conflicts {
		fmt.Fprintf(out, "conflict: instance %s of study %s: %s's copy was kept out, because its UID is taken here by other bytes\n", plain(c.Instance), plain(c.Study), plain(c.Trust))
	}
	damageText(out, s, now)
	for _, f := range s.Forked {
		if f.Over {
			continue // history
		}
		fmt.Fprintf(out, "quarantined: node %s of %s has signed two histories: epoch %d, position %d, found %s; its statements are no longer taken\n",
			plain(f.Node), or(plain(f.Trust)), f.Epoch, f.Position, f.Found.Format(time.RFC3339))
	}
	for _, b := range s.Taking {
		bootstrapText(out, b)
	}
	snapshotText(out, s.Snapshot, now)
	for _, text := range s.Warnings {
		fmt.Fprintf(out, "warning: %s\n", plain(text))
	}
}

// rosterText says what was voted, and who is out.
func rosterText(out io.Writer, r api.Roster) {
	for _, a := range r.Admissions {
		fmt.Fprintf(out, "vote: to admit %s, %d of the %d needed (%s); to vote for it: `priormesh admit CARD`\n", plain(a.Trust), a.Have, a.Need, list(a.By))
	}
	for _, x := range r.Expulsions {
		if !x.Expelled {
			fmt.Fprintf(out, "vote: to expel %s, %d of the %d needed (%s); to vote for it: `priormesh expel %s`\n", plain(x.Trust), x.Have, x.Need, list(x.By), plain(x.Trust))
		}
	}
	for _, x := range r.Expulsions {
		if x.Expelled {
			fmt.Fprintf(out, "expelled: %s, by %s; what it said before is still found here, and nothing newer of it\n", plain(x.Trust), list(x.By))
		}
	}
	for _, v := range r.Revoked {
		fmt.Fprintf(out, "revoked: node %s of %s, %s\n", plain(v.Node), plain(v.Trust), vouched(v))
	}
}

// maxDoubtLines is how many of them are listed.
const maxDoubtLines = 20

// doubtText says for how many studies that arrived lately a person has to look.
func doubtText(out io.Writer, d api.Doubts) {
	var what []string
	if d.Possible > 0 {
		what = append(what, fmt.Sprintf("%d have studies that only may be the patient's", d.Possible))
	}
	if d.Crowded > 0 {
		what = append(what, fmt.Sprintf("%d are of a number that more people bear than one can be", d.Crowded))
	}
	if d.Limited > 0 {
		what = append(what, fmt.Sprintf("%d have more studies than are brought by themselves", d.Limited))
	}
	if len(what) > 0 {
		fmt.Fprintf(out, "in doubt: of the studies that arrived lately %s: not brought, for a person decides. `priormesh find --study UID` lists what there is, for each of\n", list(what))
		for _, uid := range d.Studies[:min(len(d.Studies), maxDoubtLines)] {
			fmt.Fprintf(out, "  %s\n", plain(uid))
		}
		if more := len(d.Studies) - maxDoubtLines; more > 0 {
			fmt.Fprintf(out, "  and %d more (--json: `arrivals_in_doubt.studies`)\n", more)
		}
	}
}

// bootstrapText says how far what a node of another trust says has come as pages.
func bootstrapText(out io.Writer, b api.Bootstrap) {
	if b.Dropping {
		fmt.Fprintf(out, "index of %s: all %d pages of its snapshot are here; what it leaves out is being dropped\n", or(plain(b.Trust)), b.Of)
		return
	}
	percent := uint64(0)
	if b.Of > 0 {
		percent = 100 * b.Pages / b.Of
	}
	fmt.Fprintf(out, "index of %s: %d of %d pages of its snapshot (%d facts) are here, %d %%, from %d peers; unless its log was here before, answers may lack some of its studies until all are\n",
		or(plain(b.Trust)), b.Pages, b.Of, b.Facts, percent, b.Sources)
}

func snapshotText(out io.Writer, s api.Snapshot, now time.Time) {
	if !s.Made.IsZero() {
		fmt.Fprintf(out, "snapshot: made %s ago, %d facts; what was said before it and does not hold any more is dropped by every node that takes it up\n", ago(now.Sub(s.Made)), s.Facts)
	}
	if s.Waits != "" {
		fmt.Fprintf(out, "snapshot: the next one waits for %s\n", plain(s.Waits))
	}
	if s.Error != "" {
		fmt.Fprintf(out, "snapshot: the last could not be made and is tried again: %s\n", plain(s.Error))
	}
}

// lacking is what of a trust is not shown here.
func lacking(t api.TrustStatus) string {
	var out []string
	switch {
	case t.Behind > api.MaxBehind:
		out = append(out, "says that it has said more than it gives")
	case t.Behind > 0:
		out = append(out, fmt.Sprintf("%d on the way", t.Behind))
	}
	if t.Missing > 0 {
		out = append(out, fmt.Sprintf("%d without contents", t.Missing))
	}
	if t.Unread > 0 {
		out = append(out, fmt.Sprintf("%d unread", t.Unread))
	}
	return list(out)
}

// ways is how the nodes of a trust are connected.
func ways(peers []api.Peer, trust string) string {
	var out []string
	for _, p := range peers {
		if p.Trust == trust && p.Connected {
			out = append(out, wayText(p.Way))
		}
	}
	return list(out)
}

func wayText(w api.Way) string {
	if w.Relay != "" {
		return plain(w.Transport) + " by " + or(plain(w.RelayTrust))
	}
	return or(plain(w.Transport))
}

// maxPositions is how many nodes of a trust a line has room for.
const maxPositions = 3

// positions is how far the logs of a trust's nodes are here.
func positions(all []api.Basis, trust string) string {
	var out []string
	for _, b := range all {
		if b.Trust != trust {
			continue
		}
		for i, l := range b.Logs {
			if i == maxPositions {
				out = append(out, fmt.Sprintf("and %d more", len(b.Logs)-i))
				break
			}
			out = append(out, fmt.Sprintf("%d/%d", l.Epoch, l.Seq))
		}
	}
	return list(out)
}

// known is since when all that a trust has said is known to be here.
func known(all []api.Basis, t api.TrustStatus, now time.Time) string {
	if t.Quarantined > 0 {
		return "no: quarantined"
	}
	for _, b := range all {
		if b.Trust == t.Trust && !b.AsOf.IsZero() {
			return ago(now.Sub(b.AsOf)) + " ago"
		}
	}
	return "never"
}

func bucketText(out io.Writer, b *api.Bucket, now time.Time) {
	if b == nil {
		return
	}
	state := "reachable"
	if !b.Reachable {
		state = fmt.Sprintf("away since %s, last tried %s ago", b.AwaySince.Format(time.RFC3339), ago(now.Sub(b.Tried)))
	}
	fmt.Fprintf(out, "  bucket    originals in bucket %s at %s: %s\n", plain(b.Name), plain(b.Endpoint), state)
}

func spaceText(out io.Writer, s api.Space) {
	quota := "no quota"
	if s.Quota > 0 {
		quota = "quota " + node.Size(s.Quota).String()
	}
	fmt.Fprintf(out, "  originals %s, %s as received\n", storedText(s.Originals, ""), node.Size(s.Originals.Received))
	fmt.Fprintf(out, "  copies    %s, %s as received, %s pinned\n", storedText(s.Copies, " ("+quota+")"), node.Size(s.Copies.Received), plural(s.Pinned, "study", "studies"))
	fmt.Fprintf(out, "  disk      %s: %s free, %s kept in reserve, %s reclaimable\n", plain(s.Level), node.Size(s.Free), node.Size(s.Reserve), node.Size(s.Reclaimable))
}

// storedText is how much is on disk, as far as it was counted.
func storedText(h api.Held, quota string) string {
	switch {
	case h.Uncounted > 0 && h.Stored == 0:
		return "not counted yet" + quota
	case h.Uncounted > 0:
		return fmt.Sprintf("%s on disk%s and %s not counted yet", node.Size(h.Stored), quota, plural(h.Uncounted, "study", "studies"))
	}
	return node.Size(h.Stored).String() + " on disk" + quota
}

// ago is a duration as people say it.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than a second"
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

type peersCmd struct{ homeFlag }

func (peersCmd) Help() string {
	return `Lists the nodes of the other trusts.

  WAY        how it is connected: "tcp", "quic", "tcp by RX2" through a relay of RX2; "no": it is not, and is dialled again all the time; "expelled", "revoked": it is let in no more, because its trust was voted out, or has revoked it
  FOR        how long it has been connected so
  HEARD      when this node last heard from it
  RTT        how long a question and its answer took
  ADDRESSES  where it is dialled; /p2p-circuit says that it is a relay

Example:

    priormesh peers --home /srv/priormesh`
}

func (c *peersCmd) Run(p *program) error {
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	peers, err := client.Peers(p.ctx)
	if err != nil {
		return err
	}
	return p.result(peers, func(w io.Writer) { peerTable(w, peers, time.Now()) })
}

func peerTable(out io.Writer, peers []api.Peer, now time.Time) {
	if len(peers) == 0 {
		fmt.Fprintln(out, "no other node is known yet; admit a trust with `priormesh admit`")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TRUST\tWAY\tFOR\tHEARD\tRTT\tNODE\tADDRESSES")
	for _, p := range peers {
		connected, since, heard, rtt := "no", "-", "never", "-"
		if p.Out != "" {
			connected = plain(p.Out)
		}
		if p.Connected {
			connected, since = wayText(p.Way), ago(now.Sub(p.Way.Since))
		}
		if !p.LastHeard.IsZero() {
			heard = ago(now.Sub(p.LastHeard)) + " ago"
		}
		if p.RTT > 0 {
			rtt = p.RTT.Round(10 * time.Microsecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", or(plain(p.Trust)), connected, since, heard, rtt, plain(p.Peer), list(p.Addrs))
	}
	w.Flush()
	for _, p := range peers {
		if x := p.Wrong; x.Blocks+x.Log+x.Gossip > 0 {
			fmt.Fprintf(out, "%s has sent what is forged, damaged or none: %s, %s, %s, last %s ago\n", or(plain(p.Trust)),
				plural(x.Log, "log message", "log messages"), plural(x.Gossip, "packet of gossip", "packets of gossip"), plural(x.Blocks, "block", "blocks"), ago(now.Sub(x.Last)))
		}
		if len(p.Twins) > 0 {
			fmt.Fprintf(out, "two nodes run with the key of %s (%s): one of them is turned away; the trust has to end one for good\n", or(plain(p.Trust)), list(p.Twins))
		}
	}
}
