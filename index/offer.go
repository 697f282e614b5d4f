package index

import (
	"fmt"
	"time"
)

// OfferState is where an offer of work stands.
type OfferState string

// The states of an offer.
const (
	OfferOpen      OfferState = "open"
	OfferTaken     OfferState = "taken"
	OfferWithdrawn OfferState = "withdrawn"
	OfferDone      OfferState = "done"
)

// Offer is the body of an "offer" fact: work on a study that is to be had, by its author's word; and whoever takes it says the same offer
// taken, and done, in a fact of its own.
type Offer struct {
	Study    string     `cbor:"1,keyasint"`
	ID       string     `cbor:"2,keyasint"` // chosen by who offers; with Origin and Study, one offer
	Origin   NodeID     `cbor:"3,keyasint"` // who offers
	Work     string     `cbor:"4,keyasint"` // kind of work: "report", "second opinion", …
	Skills   []string   `cbor:"5,keyasint,omitempty"`
	Note     string     `cbor:"6,keyasint,omitempty"`
	Deadline time.Time  `cbor:"7,keyasint,omitzero"` // by the origin's clock, to the second; decides nothing here
	State    OfferState `cbor:"8,keyasint"`
	By       string     `cbor:"9,keyasint,omitempty"` // who took, did or withdrew it, as text
}

const maxOfferID = 64

// OfferStatement checks an offer and makes its statement.
func OfferStatement(o Offer) (Statement, error) {
	o.Note, o.By, o.Skills = fit(o.Note), fit(o.By), fitList(o.Skills)
	if !o.Deadline.IsZero() {
		o.Deadline = o.Deadline.UTC().Truncate(time.Second)
	}
	if err := o.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindOffer, Subject: o.subject(), Body: encode(o)}, nil
}

func (o Offer) subject() string { return o.Study + "@" + o.Origin.String() + "@" + o.ID }

func (o Offer) check() error {
	if err := checkUID(o.Study); err != nil {
		return err
	}
	if err := checkTexts("offer", append([]string{o.ID, o.Work, o.Note, o.By}, o.Skills...)...); err != nil {
		return err
	}
	why := ""
	switch {
	case len(o.ID) == 0 || len(o.ID) > maxOfferID:
		why = fmt.Sprintf("its identifier is empty or over %d bytes", maxOfferID)
	case o.Origin.IsZero():
		why = "it does not say who offers"
	case o.Work == "":
		why = "it does not say what work it is"
	case o.State != OfferOpen && o.State != OfferTaken && o.State != OfferWithdrawn && o.State != OfferDone:
		why = "its state is not known"
	case len(o.Skills) > maxList:
		return &LimitError{What: "skills in an offer", Got: len(o.Skills), Limit: maxList}
	case o.Deadline.Year() < 1 || o.Deadline.Year() > 9999:
		why = "its deadline is no date"
	}
	if why != "" {
		return &MalformedError{What: "offer", Why: why}
	}
	return nil
}

func decodeOffer(subject string, body []byte) (Offer, error) {
	var o Offer
	if err := decode(factMode, "offer", body, &o); err != nil {
		return o, err
	}
	if err := o.check(); err != nil {
		return o, err
	}
	if o.subject() != subject {
		return o, &MalformedError{What: "offer", Why: "its subject is another"}
	}
	if !o.Deadline.IsZero() {
		o.Deadline = o.Deadline.UTC()
	}
	return o, nil
}
