package index

// Batch is a run of facts as it is stored and sent: the signed header bytes, the
// signature, and beside them the payloads the header commits to.
type Batch struct {
	Header   []byte
	Sig      []byte
	Payloads []Payload
}

// Payload is one fact's bytes and the salt of its commitment. An empty Salt says that the payload was dropped.
type Payload struct {
	Salt []byte
	Data []byte
}

// Verified is a batch whose form, signature and commitments have been checked. Only Batch.Verify makes one.
type Verified struct{ batch Batch }

// Verify checks a batch by itself; whether it follows on a log is for the log to say.
func (b Batch) Verify() (Verified, error) { return Verified{}, errNotYet }

// Fork is the proof that a node signed two histories.
type Fork struct {
	Node   NodeID
	Epoch  Epoch
	Seq    Seq
	Ours   Head
	Theirs Head
}
