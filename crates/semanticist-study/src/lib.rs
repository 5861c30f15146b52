//! The human perception test (paper, appendix D.1): does a picture made from a few tokens look as much like its original, seen
//! for a fraction of a second, as another picture does that says the same?
//!
//! A [`Study`] is a folder: `study.json`, the pictures, and, once people took part, `answers.sqlite`. [`Study::create`] makes
//! it, [`Study::trials`] says what a participant sees, [`Answers`] keeps what they answer, [`score`] says what came out. The
//! page that shows the trials is in `semanticist-serve`.

mod answers;
mod plan;
mod score;

pub use answers::{Answer, Answers, Choice, Participant, Recorded};
pub use plan::{Item, OriginalShown, Picture, Plan, Study, Trial};
pub use score::{Score, Scores, Which, score, write_csv};
