package api

import "time"

// The operator API: /api/v1, JSON, for whoever has the home folder's operator
// token (header "Authorization: Bearer TOKEN"). The commands use it; so may an
// operator's own tools. Fields are added, never renamed or removed.
//
//	POST /api/v1/instances?arrival=false   one DICOM instance as body      -> Receipt
//	GET  /api/v1/studies?patient=ID&…      by any of the parameters of Filter, and limit, offset, after -> Found
//	POST /api/v1/fetches       {"study": UID, "priority": CLASS}           -> Fetch; "emergency", "interactive" (if none is given), "prior", "background"
//	GET  /api/v1/fetches                                                   -> []Fetch; the queue, the first thousand
//	GET  /api/v1/fetches/{study}                                           -> Fetch
//	DELETE /api/v1/fetches/{study}                                         -> Cancelled
//	POST /api/v1/erasures      {"study": UID, "reason": TEXT}              -> Erasure
//	GET  /api/v1/erasures/{study}                                          -> Erasure
//	GET  /api/v1/status                                                    -> Status
//	POST /api/v1/verifications {"rate": bytes a second, "study": UID}      -> a line of JSON for each Verification; ends with the request
//	POST /api/v1/backups       BackupRequest                               -> a line of JSON for each BackupLine; ends with the request
//	GET  /api/v1/peers                                                     -> []Peer
//	POST /api/v1/admissions    {"card": TEXT}                              -> Admission
//	POST /api/v1/expulsions    {"trust": ODS}                              -> Expulsion
//	POST /api/v1/revocations   {"revocation": TEXT}                        -> Revocation
//	POST /api/v1/pins          {"study": UID, "reason": TEXT}              -> Pin
//	GET  /api/v1/pins                                                      -> []Pin
//	DELETE /api/v1/pins/{study}                                            -> Unpinned
//
// What a request names and the API does not know (a query parameter, a field) is
// refused with 400, and so is a parameter that is given empty or twice: ignored,
// either would give more than was asked for.
//
// An error is a JSON object {"error": "what, where and what to do next"} with
// a fitting status code.

// Outcome is what became of one instance that was offered.
type Outcome string

// Outcomes. Stored and Duplicate are accepted: the bytes are on disk.
const (
	Stored    Outcome = "stored"
	Duplicate Outcome = "duplicate" // these very bytes were here already
	Refused   Outcome = "refused"
)

// Receipt answers POST instances: 200 for Stored and Duplicate, 422 for what
// this node will never take, 409 for a SOP Instance UID taken by other bytes,
// 507 when the disk is full, 503 when the bucket cannot be reached, 500 otherwise.
type Receipt struct {
	Outcome  Outcome `json:"outcome"`
	Study    string  `json:"study,omitempty"`
	Series   string  `json:"series,omitempty"`
	Instance string  `json:"instance,omitempty"`
	Bytes    int64   `json:"bytes"`
	SHA256   string  `json:"sha256,omitempty"`
	Reason   string  `json:"reason,omitempty"` // why refused, and what to do
	// MixedPatient says that instances of the study name several patients.
	MixedPatient bool `json:"mixed_patient,omitempty"`
}

// Study is one study as this node knows it.
type Study struct {
	Study        string    `json:"study"`
	PatientID    string    `json:"patient_id,omitempty"`
	Issuer       string    `json:"issuer,omitempty"`
	NHS          string    `json:"nhs,omitempty"`
	Name         string    `json:"name,omitempty"`
	BirthDate    string    `json:"birth_date,omitempty"`
	Sex          string    `json:"sex,omitempty"`
	Date         string    `json:"date,omitempty"`
	Time         string    `json:"time,omitempty"`
	Accession    string    `json:"accession,omitempty"`
	Description  string    `json:"description,omitempty"`
	Modalities   []string  `json:"modalities"`
	Series       int       `json:"series"`
	Instances    int       `json:"instances"`
	Bytes        int64     `json:"bytes"`
	Trusts       []string  `json:"trusts"`       // who says it: where it was received
	Copies       []string  `json:"copies"`       // trusts that hold a whole copy
	Availability string    `json:"availability"` // "ONLINE": whole and here; "NEARLINE": it has to be brought; "UNAVAILABLE": under its UID another patient's is given
	Settled      bool      `json:"settled"`      // no instance has been added for a while
	MixedPatient bool      `json:"mixed_patient,omitempty"`
	Damaged      bool      `json:"damaged,omitempty"`     // what was received here is not whole any more
	PartlyHere   bool      `json:"partly_here,omitempty"` // a part is whole here: what one node received, or an older revision
	Lost         bool      `json:"lost,omitempty"`        // this node received it, and has nothing of it since it was restored from an older backup: it comes from one of LostCopies, or is to be sent again
	LostCopies   []string  `json:"lost_copies,omitempty"` // trusts that hold a copy of it
	Coming       bool      `json:"coming,omitempty"`      // the fetch queue has it
	Received     time.Time `json:"received,omitzero"`
	// Person tells patients apart where studies were asked for by a number of a
	// patient, or a pattern of such, and are not all known to be one patient's: those
	// with the same number, from 1, are. 0 where all are one patient's, as far as anybody says, and
	// of a study that is a further patient's than are told apart.
	Person int `json:"person,omitempty"`
	// Versions is what each node received of the study. Modalities, Series,
	// Instances and Bytes above are of all together that may be one patient's.
	Versions []StudyVersion `json:"versions"`
	AtLeast  bool           `json:"counts_at_least,omitempty"` // Series, Instances and Bytes may be more: not all lists are here
}

// StudyVersion is what one node received of a study.
type StudyVersion struct {
	Node         string   `json:"node"`
	Trust        string   `json:"trust"`
	Modalities   []string `json:"modalities"`
	Series       int      `json:"series"`
	Instances    int      `json:"instances"`
	Copies       []string `json:"copies"`                  // trusts that hold a whole copy of it
	OtherPatient bool     `json:"other_patient,omitempty"` // it names, or may name, another patient: not shown, not counted above
	Unlisted     bool     `json:"unlisted,omitempty"`      // it names no list of its contents that can be read: it cannot be brought, and is not counted with others
}

// Found answers GET studies.
type Found struct {
	Studies []Study `json:"studies"`
	Total   int     `json:"total"` // matches before limit, offset and after
	// Further are studies that are certainly of a patient of a number that was asked
	// for, and do not bear it: they bear another. All else that was asked for fits.
	// The first ones.
	Further []Study `json:"further,omitempty"`
	// Possible are further studies that may be of a patient of a number or a study
	// that was asked for, the first ones: a person decides.
	Possible []Study `json:"possible,omitempty"`
	// Next goes on after this page (after=NEXT), whatever comes in meanwhile; empty:
	// nothing was left after it. A page may be shorter than its limit: it has bytes
	// for so much only, and Warnings says so.
	Next     string   `json:"next,omitempty"`
	Warnings []string `json:"warnings"`           // what is not certain of the answer: first one for each trust that was not heard from
	Basis    []Basis  `json:"rests_on,omitempty"` // how far the logs of each trust go here, this node's own too
}

// Basis is what answers rest on of one trust.
type Basis struct {
	Trust string `json:"trust"`
	// AsOf is when this node last knew that it had all that the trust has said: a
	// node of the trust told of its own log, and nothing was lacking here. Of
	// several nodes the oldest counts. Zero: never; or a node of it is quarantined,
	// or the time is ahead of this node's clock.
	AsOf   time.Time     `json:"as_of,omitzero"`
	Age    *float64      `json:"age_seconds,omitempty"` // since then; absent: as AsOf
	Behind uint64        `json:"behind"`                // facts that are announced and not here yet
	Logs   []LogPosition `json:"logs"`
}

// LogPosition is the newest head of one node's log that is here.
type LogPosition struct {
	Node        string    `json:"node"`
	Epoch       uint64    `json:"epoch"` // 0: nothing of it is here
	Seq         uint64    `json:"seq"`
	AsOf        time.Time `json:"as_of,omitzero"`
	Quarantined bool      `json:"quarantined,omitempty"`
	// Before are where its earlier epochs end here.
	Before []LogEnd `json:"before,omitempty"`
}

// LogEnd is where an epoch of a log ends.
type LogEnd struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Fork is a log of which a node has signed two histories. Nothing more of that
// epoch is taken.
type Fork struct {
	Node     string    `json:"node"`
	Trust    string    `json:"trust"`
	Epoch    uint64    `json:"epoch"`
	Position uint64    `json:"position"` // the first that is known to be said twice
	Found    time.Time `json:"found"`
	Own      bool      `json:"own,omitempty"`
	Over     bool      `json:"over,omitempty"` // the node has begun a newer epoch
	Advice   string    `json:"advice"`
}

// Fetch is how far bringing a study is.
type Fetch struct {
	Study string `json:"study"`
	// State is "here"; "active"; "queued": due, and waiting for a place; "paused":
	// as queued, since a more urgent one got its place; "waiting": for somebody, or
	// for a while; "refused": everybody who has it has refused it, and it is not
	// asked for until something changes; "cancelled": it was taken off; "elsewhere": nobody asked for it; "unknown".
	State         string    `json:"state"`
	Priority      string    `json:"priority,omitempty"`
	Reason        string    `json:"reason,omitempty"`    // why it is to be brought
	Waits         string    `json:"waits_for,omitempty"` // what it waits for, and for whom
	Attempts      int       `json:"attempts"`            // that failed
	Error         string    `json:"error,omitempty"`     // why the last attempt failed
	NextTry       time.Time `json:"next_try,omitzero"`   // at the latest
	Asked         time.Time `json:"asked,omitzero"`      // since when it is in the queue
	RefusedAt     time.Time `json:"refused_at,omitzero"` // when it ended as refused
	Rate          float64   `json:"bytes_per_second"`    // that arrive, sealed
	Holders       []Giver   `json:"holders,omitempty"`   // who has been asked in this attempt
	Instances     int       `json:"instances"`
	InstancesHere int       `json:"instances_here"`
	Bytes         int64     `json:"bytes"`
	BytesHere     int64     `json:"bytes_here"`
}

// Giver is a node that was asked for a study.
type Giver struct {
	Trust string `json:"trust"`
	Node  string `json:"node"`
	State string `json:"state"` // "asked", "gives", "refused", "away"; "full": as many studies come from it as may; "version": its version gives studies in another way
	Bytes int64  `json:"bytes"` // that came from it, sealed
}

// Cancelled answers DELETE fetches.
type Cancelled struct {
	Study string `json:"study"`
	Was   bool   `json:"was_queued"`
}

// Erasure is what an erasure has done, or is about to do. POST answers 202 when
// it is not done within a while; it goes on by itself, also after a restart.
type Erasure struct {
	Study     string    `json:"study"`
	State     string    `json:"state"` // "erased", "active"
	When      time.Time `json:"when"`
	Reason    string    `json:"reason"`
	Versions  int       `json:"versions"` // of the study, that were here: what was received here, and copies
	Instances int       `json:"instances"`
	Bytes     int64     `json:"bytes"`
	Copies    []string  `json:"copies"`             // trusts that said they hold a copy of what was received here: erased when they hear of it
	Others    []string  `json:"others"`             // trusts that have received the study themselves: what is theirs stays
	Siblings  bool      `json:"siblings,omitempty"` // other nodes of this trust have received it too: what is theirs stays
	Problem   string    `json:"problem,omitempty"`  // why it could not go on yet; it is tried again
}

// Status answers GET status.
type Status struct {
	Version   string        `json:"version"`
	Trust     string        `json:"trust"`
	Name      string        `json:"name"`
	Peer      string        `json:"peer"` // libp2p peer ID of this node
	Region    string        `json:"region"`
	HTTP      string        `json:"http"`
	DIMSE     string        `json:"dimse"` // empty while DIMSE is not served
	Mesh      []string      `json:"mesh"`
	Started   time.Time     `json:"started"`
	Studies   StudyCounts   `json:"studies"`
	Space     Space         `json:"space"`
	Bucket    *Bucket       `json:"bucket,omitempty"` // of originals, if they are not on this node's disk
	Trusts    []TrustStatus `json:"trusts"`
	Roster    Roster        `json:"roster"`
	Peers     []Peer        `json:"peers"`
	Relay     *Relay        `json:"relay,omitempty"` // absent: this node is none
	Fetches   []Fetch       `json:"fetches"`
	Doubts    Doubts        `json:"arrivals_in_doubt"`
	Settings  Settings      `json:"settings"`
	Damage    []Damage      `json:"damage"`  // what is stored here is not whole and not repaired yet; the first hundred
	Damaged   int           `json:"damaged"` // versions of studies that are damaged, in all
	Lost      []Lost        `json:"lost"`    // studies that were received here and are gone since a restore, wholly or in part; the first hundred
	LostAll   LostCounts    `json:"lost_counts"`
	Conflicts []Conflict    `json:"conflicts"` // instances kept out because other bytes have their UID
	Forks     []string      `json:"forks"`     // nodes quarantined for contradicting themselves
	Forked    []Fork        `json:"forked"`    // the same, log by log
	Snapshot  Snapshot      `json:"snapshot"`  // the newest of this node's own log
	Taking    []Bootstrap   `json:"taking"`    // snapshots of other nodes' logs that are being taken up
	Basis     []Basis       `json:"rests_on"`
	Warnings  []string      `json:"warnings"`
}

// Roster is what was voted about members, and which nodes were revoked.
type Roster struct {
	Quorum     int          `json:"quorum"`     // votes that admit or expel now
	Admissions []Admission  `json:"admissions"` // endorsed, and not by enough yet
	Expulsions []Expulsion  `json:"expulsions"` // voted for, and not by enough yet; and trusts that are expelled
	Revoked    []Revocation `json:"revoked"`
}

// Lost is a study that this node has received and has nothing of, since it was
// restored from an older backup.
type Lost struct {
	Study  string   `json:"study"`
	Here   int      `json:"here"`   // instances that are here: if any, the rest is to be sent here again
	Told   int      `json:"told"`   // that had been told of before
	Copies []string `json:"copies"` // trusts that hold a copy, from where it comes back, or one with more than is here; none: it is to be sent here again
}

// LostCounts counts them.
type LostCounts struct {
	Studies int `json:"studies"`
	Alone   int `json:"no_copy"` // of those, nobody is known to hold a copy
}

// Doubts counts the studies that arrived within priors.window and for which not
// all that may be a prior was brought. One may be in several.
type Doubts struct {
	Possible int `json:"possible"`       // there are studies that may be the patient's
	Crowded  int `json:"crowded_number"` // more people bear a number of the patient's than one can be
	Limited  int `json:"limit"`          // not all was looked at, or is brought
	// Studies are those, by Study Instance UID, the newest first, a hundred at most.
	Studies []string `json:"studies,omitempty"`
}

// Settings is what is in force of config.toml. Rates are in bytes a second; 0: no
// limit.
type Settings struct {
	Since           time.Time `json:"since"`             // when the file was taken last
	Problem         string    `json:"problem,omitempty"` // why what is in the file now is not in force
	Restart         []string  `json:"restart"`           // what has changed in it and is in force after the next start only
	FullSpeed       bool      `json:"full_speed"`        // it is a time of full_speed
	Rate            int64     `json:"rate"`
	Background      int64     `json:"background_rate"`
	ServeRate       int64     `json:"serve_rate"`
	ServeBackground int64     `json:"serve_background_rate"`
}

// Snapshot is what a node's log begins with: what it said before and does not
// hold any more is gone.
type Snapshot struct {
	Made     time.Time `json:"made,omitzero"` // absent: none yet
	Epoch    uint64    `json:"epoch,omitempty"`
	Position uint64    `json:"position,omitempty"` // up to where it covers the log
	Facts    uint64    `json:"facts,omitempty"`    // that hold
	Waits    string    `json:"waits,omitempty"`    // for what the next one, which is due, waits
	Error    string    `json:"error,omitempty"`    // why the last could not be made
}

// Bootstrap is how far a snapshot of another node's log has been taken up.
type Bootstrap struct {
	Node     string `json:"node"`
	Trust    string `json:"trust"`
	Pages    uint64 `json:"pages"` // that are here
	Of       uint64 `json:"of"`
	Facts    uint64 `json:"facts"` // in all of them
	Bytes    uint64 `json:"bytes"` // that came from peers since the start
	Sources  int    `json:"sources"`
	Missing  uint64 `json:"missing,omitempty"`  // pages of which nobody asked has the whole
	Dropping bool   `json:"dropping,omitempty"` // all are here; what the snapshot leaves out is being dropped
}

// StudyCounts counts studies.
type StudyCounts struct {
	Own    int `json:"own"`    // received here
	Copies int `json:"copies"` // whole copies of other trusts' studies
	Region int `json:"region"` // known to the index, wherever they are
}

// Space is how much there is of what. It may be a few seconds old.
type Space struct {
	Originals   Held   `json:"originals"`            // received by this trust
	Copies      Held   `json:"copies"`               // of other trusts' studies, whole or begun
	Quota       int64  `json:"quota_bytes"`          // of copies, as stored; 0: none
	Over        bool   `json:"over_quota,omitempty"` // and no copy may go yet
	Pinned      int    `json:"pinned"`               // studies
	Reclaimable int64  `json:"reclaimable_bytes"`    // on disk, deleted, and given back by itself
	Unswept     int    `json:"unswept"`              // studies that may still hold what they no longer need
	Damaged     int    `json:"damaged,omitempty"`    // studies of which that cannot be told
	Free        int64  `json:"free_bytes"`           // on the disk of the home folder
	Reserve     int64  `json:"reserve_bytes"`
	Level       string `json:"level"` // of the disk: "ok", "full": no images are stored, "critical": nothing from outside is
}

// Bucket is where originals are, and whether it could be reached at the last
// request that needed it.
type Bucket struct {
	Name      string    `json:"name"` // with the prefix
	Endpoint  string    `json:"endpoint"`
	Reachable bool      `json:"reachable"`
	AwaySince time.Time `json:"away_since,omitzero"`
	Tried     time.Time `json:"tried,omitzero"` // in vain, the last time
}

// Held counts studies.
type Held struct {
	Studies  int   `json:"studies"`
	Received int64 `json:"received_bytes"`
	Stored   int64 `json:"stored_bytes"` // sealed, on disk
	// Uncounted studies are not in Stored yet.
	Uncounted int `json:"uncounted,omitempty"`
}

// Pin is a study whose copies stay.
type Pin struct {
	Study  string    `json:"study"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Here   bool      `json:"here"`
}

// Unpinned answers DELETE pins.
type Unpinned struct {
	Study string `json:"study"`
	Was   bool   `json:"was_pinned"`
}

// TrustStatus is what is known of another trust on the roster.
type TrustStatus struct {
	Trust     string    `json:"trust"`
	Name      string    `json:"name"`
	Heard     bool      `json:"heard"`               // within completeness.heard_within
	LastHeard time.Time `json:"last_heard,omitzero"` // zero: never
	Behind    uint64    `json:"behind"`              // facts that it has announced and this node has not yet
	Missing   int       `json:"missing,omitempty"`   // facts of which this node has the place and not the contents
	Unread    int       `json:"unread,omitempty"`    // facts that this version cannot read
	// Quarantined nodes of it have signed two histories: nothing that they have said since is taken, whenever they were heard.
	Quarantined int `json:"quarantined_nodes,omitempty"`
	Studies     int `json:"studies"`
}

// Damage is one version of a study of which something here is not whole. It is
// not served; it is repaired by itself when somebody who holds it is there.
type Damage struct {
	Study     string    `json:"study"`
	Trust     string    `json:"trust"` // that received this version of it
	Own       bool      `json:"own"`   // that is this node
	Kinds     []string  `json:"kinds"` // "damaged", "missing": blocks; "manifest": a list that contradicts the catalogue; "key": nothing of it can be read
	Blocks    int       `json:"blocks"`
	Instances int       `json:"instances"` // that they are known to belong to
	Since     time.Time `json:"since"`
	Tried     time.Time `json:"tried,omitzero"` // to repair it
	Why       string    `json:"why,omitempty"`  // it is not repaired
}

// Verification is one line of the answer to POST verifications: progress lines,
// then one with the report, or with an error.
type Verification struct {
	Progress *VerifyProgress `json:"progress,omitempty"`
	Report   *VerifyReport   `json:"report,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// VerifyProgress is how far a verification is.
type VerifyProgress struct {
	Studies     int   `json:"studies"` // versions of studies, here and below
	StudiesDone int   `json:"studies_done"`
	Bytes       int64 `json:"bytes"`
	BytesDone   int64 `json:"bytes_done"`
	Damaged     int   `json:"damaged"` // blocks and keys
	Repaired    int   `json:"repaired"`
	Repairing   bool  `json:"repairing"` // all is read; what was found is being repaired
}

// VerifyReport is what a verification found.
type VerifyReport struct {
	Studies   int       `json:"studies"`
	Instances int       `json:"instances"`
	Blocks    int       `json:"blocks"`
	Bytes     int64     `json:"bytes"` // sealed
	Found     []Finding `json:"found"`
	MoreFound int       `json:"more_found,omitempty"` // beyond those listed
	Left      int       `json:"left"`                 // not repaired
	Lost      int       `json:"lost"`                 // studies that were received here and are gone since a restore, wholly or in part
	CanRepair bool      `json:"can_repair"`           // the node runs
}

// Finding is one version of a study in which damage was found.
type Finding struct {
	Damage
	Repaired int      `json:"repaired"` // blocks and keys
	From     []string `json:"from"`     // trusts that gave them
	Left     *Damage  `json:"left,omitempty"`
}

// BackupRequest asks for a backup of the node's home.
type BackupRequest struct {
	Target     string `json:"target"`                // the whole path of a folder on the node's machine
	Copies     bool   `json:"copies,omitempty"`      // copies of other trusts' studies too
	WithoutKEK bool   `json:"without_kek,omitempty"` // not the key that wraps the study keys, although it lies in the home
	Reread     bool   `json:"reread,omitempty"`      // packs that the target has are read once more
	Rate       int64  `json:"rate,omitempty"`        // bytes a second
}

// BackupLine is one line of the answer to POST backups: progress lines, then one
// with the result, or with an error.
type BackupLine struct {
	Progress *BackupProgress `json:"progress,omitempty"`
	Backup   *Backup         `json:"backup,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// BackupProgress is how far a backup or a restore is.
type BackupProgress struct {
	Phase     string `json:"phase"` // "blocks", "index", "keys"
	Bytes     int64  `json:"bytes"` // as far as is known
	BytesDone int64  `json:"bytes_done"`
	Copied    int64  `json:"copied"` // of them, that the target did not have
}

// Backup is a backup that is complete.
type Backup struct {
	ID        string    `json:"id"`
	Target    string    `json:"target"`
	Taken     time.Time `json:"taken"` // what was acknowledged before is in it
	Studies   int       `json:"studies"`
	Packs     int       `json:"packs"`
	Bytes     int64     `json:"bytes"`
	Copied    int64     `json:"copied"` // bytes of packs that the target did not have
	KEK       string    `json:"kek"`    // "in the backup", "left out", or where it comes from: then it is not in it
	TrustKey  bool      `json:"trust_key"`
	Copies    bool      `json:"copies"`
	Originals string    `json:"originals"`           // "disk", or the bucket where they stay
	SameDisk  bool      `json:"same_disk,omitempty"` // the target lies on the home's own disk
	Missing   []string  `json:"missing"`             // what could not be backed up
}

// Restored is a home that was made of a backup, or a backup that was compared.
type Restored struct {
	Home      string    `json:"home,omitempty"`
	Backup    string    `json:"backup"`
	Taken     time.Time `json:"taken"`
	Trust     string    `json:"trust"`
	Node      string    `json:"node"`
	Studies   int       `json:"studies"`
	Files     int       `json:"files"`
	Bytes     int64     `json:"bytes"`
	KEK       string    `json:"kek"`
	TrustKey  bool      `json:"trust_key"`
	Copies    bool      `json:"copies"`
	Originals string    `json:"originals"`
	Missing   []string  `json:"missing"` // what the backup lacks
}

// Conflict is an instance that was not kept.
type Conflict struct {
	Study    string `json:"study"`
	Instance string `json:"instance"`
	Trust    string `json:"trust"` // whose copy was kept out
}

// Peer is one other node.
type Peer struct {
	Trust     string        `json:"trust"`
	Peer      string        `json:"peer"`
	Connected bool          `json:"connected"`
	Alive     bool          `json:"alive"`
	LastHeard time.Time     `json:"last_heard,omitzero"`
	RTT       time.Duration `json:"rtt_ns"`
	Way       Way           `json:"way,omitzero"` // absent: it is not connected
	Addrs     []string      `json:"addrs"`
	// Out is why the node is let in no more: "expelled", its trust was, or
	// "revoked", by its trust's key. Absent: it is let in.
	Out   string   `json:"out,omitempty"`
	Twins []string `json:"two_nodes_at,omitempty"` // two nodes run with its key, and speak from there
	Wrong Wrong    `json:"wrong,omitzero"`         // what it sent that was refused
}

// MaxBehind is how many facts a trust may have announced and not given, to be
// believed: a thousand million are more than a region says in a hundred years.
const MaxBehind = 1_000_000_000

// Wrong is what a node has sent, since this one started, that is forged, damaged
// or none at all. It is refused.
type Wrong struct {
	Blocks int       `json:"blocks,omitempty"` // of studies
	Log    int       `json:"log,omitempty"`    // messages about logs
	Gossip int       `json:"gossip,omitempty"` // packets
	Last   time.Time `json:"last,omitzero"`
}

// Way is how a node is connected.
type Way struct {
	Transport  string    `json:"transport"`             // "tcp" or "quic"; of a relayed one, to the relay
	Relay      string    `json:"relay,omitempty"`       // the node that carries it; absent: it is direct
	RelayTrust string    `json:"relay_trust,omitempty"` // and its trust
	At         string    `json:"at"`                    // address of the other end, or of the relay
	Since      time.Time `json:"since"`
}

// Relay is what a node that is a relay carries for others.
type Relay struct {
	Circuits uint64 `json:"circuits"` // now
	Bytes    uint64 `json:"bytes"`    // since the start
}

// Admission answers POST admissions.
type Admission struct {
	Trust      string   `json:"trust"`
	Have       int      `json:"have"` // endorsements so far
	Need       int      `json:"need"` // endorsements that make the quorum
	By         []string `json:"by"`
	Admitted   bool     `json:"admitted"`
	Invitation string   `json:"invitation,omitempty"` // once admitted
	Node       string   `json:"node,omitempty"`       // a further node of this trust that is let in from now on
}

// Expulsion answers POST expulsions.
type Expulsion struct {
	Trust    string   `json:"trust"`
	Have     int      `json:"have"` // votes so far
	Need     int      `json:"need"` // votes that make the quorum
	By       []string `json:"by"`
	Expelled bool     `json:"expelled"`
}

// Revocation answers POST revocations.
type Revocation struct {
	Trust string `json:"trust"`
	Node  string `json:"node"`
	// Known: what was given changes nothing, for the node is revoked already, by
	// a revocation that vouches for as much or less.
	Known bool     `json:"known,omitempty"`
	Self  bool     `json:"self,omitempty"` // it is of the node that was asked
	Until []LogEnd `json:"until"`          // what the node has said up to here still counts, by epoch; empty: what each node has, and nothing more
	Text  string   `json:"revocation"`     // that is in force, to give to other nodes
}
