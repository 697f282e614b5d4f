package node

import "github.com/priormesh/priormesh/cas"

// StudyKey is the key of what a node has received of a study, or of another node's version of it.
func (n *Node) StudyKey(study, origin string) (cas.Key, error) {
	return n.keys.Get(study + "/" + origin)
}
